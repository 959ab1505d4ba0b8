"""A Prefect profile for the service, so that `prefect` in any shell meets its server."""

from __future__ import annotations

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, Profile
from prefect.settings.context import get_current_settings
from prefect.settings.profiles import load_profiles, save_profiles

from flows.service.state import Config

NAME = "made"
LOCAL = "ephemeral"  # Prefect's default profile, which names no server


def write(config: Config) -> list[str]:
    """Writes the profile, and makes it active unless another one that names a server is.

    Sets `config.earlier_profile`. Returns sentences for the user.
    """
    profiles = load_profiles()
    before = profiles.profiles_by_name.get(NAME)
    said = []
    if before is not None and (url := _url(before)) != config.prefect_api_url:
        said.append(f"The Prefect profile `{NAME}` names this server now; it was {url}.")
    settings = {PREFECT_API_URL: config.prefect_api_url}
    if config.has_server:
        settings[PREFECT_API_AUTH_STRING] = config.auth_string
    source = get_current_settings().profiles_path
    profiles.profiles_by_name[NAME] = Profile(name=NAME, settings=settings, source=source)
    active = profiles.active_profile if profiles.active_name in profiles.names else None
    if active is None or active.name == NAME or _url(active) is None:
        if active is not None and active.name != NAME:
            config.earlier_profile = active.name
        profiles.set_active(NAME)
        said.append(f"The Prefect profile `{NAME}` is active: `prefect` in any shell uses this server.")
    else:
        said.append(
            f"Your Prefect profile `{active.name}` names {_url(active)} and stays active. For this server: "
            f"prefect profile use {NAME}"
        )
    save_profiles(profiles)
    source.chmod(0o600)  # it holds the login
    return said


def deactivate(config: Config) -> None:
    """Makes the earlier profile active again if the service's is."""
    profiles = load_profiles()
    mine = profiles.profiles_by_name.get(NAME)
    if mine is None or profiles.active_name != NAME or _url(mine) != config.prefect_api_url:
        return
    earlier = config.earlier_profile
    profiles.set_active(earlier if earlier in profiles.names else LOCAL, check=False)
    save_profiles(profiles)


def _url(profile: Profile) -> str | None:
    found = profile.settings.get(PREFECT_API_URL)
    return None if found is None else str(found)
