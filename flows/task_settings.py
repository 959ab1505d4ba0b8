"""Prefect's settings on their way from a flow to its tasks, made once for all of them (docs/adr/0016).

Prefect serialises all of its settings for each task, 60 ms of CPU in the flow, and builds them again in the
worker, 60 ms more, of which each nested group reads the environment. They do not change while a flow runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.context import SettingsContext
from pydantic import PrivateAttr


class _Kept(SettingsContext):
    """The settings, with what tasks get of them."""

    _form: dict[str, Any] = PrivateAttr(default_factory=dict)

    def serialize(self, include_secrets: bool = True) -> dict[str, Any]:
        return self._form


@contextmanager
def task_settings(same_host: bool) -> Iterator[None]:
    """Tasks that are submitted inside get the settings of this process as they are now.

    Args:
        same_host: all workers are on this host and get the settings themselves. Others get Prefect's own
            form, to which they add the settings of their environment.
    """
    now = SettingsContext.get()
    if now is None:
        raise RuntimeError("task_settings is for use in a flow")
    kept = _Kept(profile=now.profile, settings=now.settings)
    kept._form = {"profile": now.profile, "settings": now.settings} if same_host else now.serialize()
    with kept:
        yield
