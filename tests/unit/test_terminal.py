"""How `made curate` ends: what it prints of the shards, and its exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from flows.cli import terminal
from made_core.types import RunState
from tests.support.summaries import summary_of

WHOLE = {"in": 3, "failed": 0, "out": 1, "shortfall": 0}


def test_the_state_is_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The counts are narrower than `completed with failures`: a title of their table would be wrapped."""
    summary = summary_of(shards=WHOLE)
    terminal.table(summary.model_copy(update={"state": RunState.COMPLETED_WITH_FAILURES}))
    assert f"run {summary.run}: completed with failures\n" in capsys.readouterr().out


def test_all_shards(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.end(summary_of(shards=WHOLE))
    assert "shards: 3 in, 0 failed, 1 out; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "shown"),
    [
        ({"failed": 1}, "1 failed, 1 out"),
        ({"unread": 2, "unfinished_folders": 1}, "2 unfinished and not read, 1 out"),
        ({"unfinished_folders": 1}, "0 failed, 1 out"),  # only `_tmp`: img2dataset runs, or was killed
    ],
)
def test_missing_shards_are_exit_code_3(
    missing: dict[str, int], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that waits for this one with `afterok` must not train on half a corpus."""
    with pytest.raises(typer.Exit) as end:
        terminal.end(summary_of(shards=WHOLE | missing))
    assert end.value.exit_code == 3 and shown in capsys.readouterr().out


def test_more_ctrl_c_while_the_command_ends() -> None:
    """Ray ends in a function that runs at the exit, which another Ctrl-C would break off with a traceback."""
    code = """
import atexit, os, signal, sys
from flows.cli import main

def interrupted(**_):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError

atexit.register(lambda: print("ended"))
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
signal.signal(signal.SIGINT, signal.default_int_handler)
main.app = interrupted
main.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "ended\n")
    assert done.stderr == "made: interrupted: re-run to resume\n"
