"""`make test-pythons` finds interpreters that run, and reads pytest's last line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import pythons


def program(path: Path, lines: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def test_a_shim_that_runs_nothing_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim of a version that is not selected, another version, then one that serves."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    program(tmp_path / "shims" / f"python{own}", "exit 127")
    program(tmp_path / "bin" / f"python{own}", "echo 2.7")
    run = f'exec "{sys.executable}" "$@"'
    real = program(tmp_path / "pyenv" / "versions" / f"{own}.10" / "bin" / f"python{own}", run)
    program(tmp_path / "pyenv" / "versions" / f"{own}.9" / "bin" / f"python{own}", run)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{tmp_path / 'bin'}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert pythons.find(own) == real
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    assert pythons.find(own) is None


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (
            "934 passed, 46 deselected, 2 warnings in 31.36s",
            ["934 passed, 46 deselected, 2 warnings in 31.36s"],
        ),
        ("1 failed, 3 passed in 62.10s (0:01:02)", ["1 failed, 3 passed in 62.10s"]),
        ("= 2 errors in 1.00s =", ["2 errors in 1.00s"]),
        ("Killed", []),
    ],
)
def test_the_last_line(last: str, expected: list[str]) -> None:
    assert pythons.TESTS.findall(f"....  [100%]\n{last}\n") == expected
