"""The wrapper around img2dataset, with stand-ins for img2dataset and made."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import checks

WRAPPER = checks.ROOT / "deployments" / "img2dataset" / "download-and-curate.sh"


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment in which both programs write their arguments to files, one in each line."""
    for name in ("img2dataset", "made"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.args\nexit ${{EXIT_{name}:-0}}\n'
        )
        program.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def wrapper(environ: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """Runs the wrapper."""
    return subprocess.run([str(WRAPPER), *args], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("given", [["--output_folder", "/data/a b"], ["--output_folder=/data/a b"]])
def test_arguments_reach_both(programs: dict[str, str], tmp_path: Path, given: list[str]) -> None:
    done = wrapper(programs, "--output", "/out", "--wait", "--", "--url_list", "urls", *given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "img2dataset.args").read_text().splitlines() == ["--url_list", "urls", *given]
    assert (tmp_path / "made.args").read_text().splitlines() == [
        "trigger", "/data/a b", "--output", "/out", "--wait",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "expected -- and the arguments of img2dataset"),
        (["--wait", "--"], "expected -- and the arguments of img2dataset"),
        (["--", "--url_list", "urls"], "the arguments of img2dataset need --output_folder"),
    ],
)
def test_wrong_use(programs: dict[str, str], tmp_path: Path, args: list[str], sentence: str) -> None:
    done = wrapper(programs, *args)
    assert (
        done.returncode == 2 and sentence in done.stderr and "download-and-curate.sh [options" in done.stderr
    )
    assert not (tmp_path / "img2dataset.args").exists()


def test_exit_codes(programs: dict[str, str], tmp_path: Path) -> None:
    assert wrapper({**programs, "EXIT_made": "3"}, "--", "--output_folder", "/x").returncode == 3
    (tmp_path / "made.args").unlink()
    done = wrapper({**programs, "EXIT_img2dataset": "7"}, "--", "--output_folder", "/x")
    assert done.returncode == 7 and "nothing was triggered" in done.stderr
    assert not (tmp_path / "made.args").exists()


def test_an_interrupt_triggers_nothing(programs: dict[str, str], tmp_path: Path) -> None:
    """img2dataset exits with 0 after SIGINT."""
    img2dataset = tmp_path / "img2dataset"
    img2dataset.write_text('#!/bin/sh\ntrap "exit 0" INT\nkill -INT $PPID\nkill -INT $$\n')
    done = wrapper(programs, "--", "--output_folder", "/x")
    assert done.returncode == 128 + signal.SIGINT and "was interrupted" in done.stderr
    assert not (tmp_path / "made.args").exists()


def test_shellcheck() -> None:
    if (program := shutil.which("shellcheck")) is None:
        pytest.skip("needs shellcheck (.ci/packages)")
    done = subprocess.run([program, str(WRAPPER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
