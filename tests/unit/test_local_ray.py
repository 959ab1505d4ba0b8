"""Ray on this machine: its token is this user's alone, and a Ray that does not start is a sentence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import ray

from flows import engine, local_ray
from made_core.errors import MadeError
from made_core.recipe import Work


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS", "MADE_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_for_this_user_alone_and_kept(user: Path) -> None:
    path = user / ".ray" / "auth_token"
    local_ray.private_token()
    token = path.read_text()
    assert len(token) >= 32 and mode(path) == 0o600
    path.chmod(0o644)  # as Ray makes it
    local_ray.private_token()
    assert path.read_text() == token and mode(path) == 0o600


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_ADDRESS", "10.0.0.5:6379")])
def test_a_token_that_is_not_used_is_not_made(
    user: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A file there makes Ray use tokens, also with a cluster that has none."""
    monkeypatch.setenv(name, value)
    local_ray.private_token()
    assert not (user / ".ray").exists()


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # end-to-end tests may have joined one
    with (
        pytest.raises(MadeError, match=r"Ray did not start .*timed out during startup.*try again"),
        local_ray.early(Work()),
    ):
        pass


@pytest.mark.parametrize("named", [None, "10.0.0.5:6379"])
def test_a_cluster_that_somebody_started_here_is_not_joined(
    monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """By a command or a flow run. Ray's own default is the last `ray start` on the machine, of any user."""
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    asked: list[str | None] = []

    def init(address: str | None = None, **_: object) -> None:
        asked.append(address)
        raise Exception("that is enough")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(MadeError), local_ray.early(Work()):
        pass
    with pytest.raises(Exception, match="that is enough"), engine.runner():
        pass
    assert asked == [named or "local"] * 2
