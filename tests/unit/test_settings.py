"""Values of the environment that are not allowed: one sentence, never a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.service import state
from made_core.errors import PathError, UserError
from made_core.io import files
from made_core.settings import Settings, settings


@pytest.fixture(autouse=True)
def read_again() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("MADE_STOP_AT", "12:00", r"should be a valid number.* in seconds since the epoch"),
        ("MADE_STOP_AT", "nan", "should be a finite number"),
        ("MADE_FRONT_DOOR_PORT", "99999", "should be less than or equal to 65535"),
        ("MADE_HOME", "~no-such-user/made", "no home folder is known for ~no-such-user"),
        ("MADE_HOME", "", "it is empty .*folder of the private PostgreSQL"),
        ("MADE_SCRATCH", "~no-such-user/made", "no home folder is known for ~no-such-user"),
    ],
)
def test_the_message_names_variable_value_host_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=why) as caught:
        settings()
    message = str(caught.value)
    assert f"{name}={value} is not valid" in message and "\n" not in message
    assert socket.gethostname() in message  # a worker's environment is that of its node


def test_every_variable_has_its_purpose_in_the_message() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_a_command_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    environment = {**os.environ, "MADE_HOME": str(tmp_path), "MADE_STOP_AT": "12:00"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("made: ") and done.stderr.count("\n") == 1
    assert "MADE_STOP_AT=12:00" in done.stderr


def test_a_home_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MADE_HOME", str(tmp_path / "file"))
    assert state.config() is None and state.processes() is None
    with pytest.raises(UserError, match=r"file/service cannot be created .*MADE_HOME"), state.locked("up"):
        pass


def test_a_scratch_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MADE_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(PathError, match=r"MADE_SCRATCH=.*/file: file exists"), files.scratch():
        pass
