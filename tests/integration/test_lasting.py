"""A process whose output nobody reads any more goes on, and so does what is called every few seconds."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from flows.periodic import every
from tests.support import checks

FLOW = """
import logging, sys
from prefect.logging.configuration import setup_logging
from flows import lasting
setup_logging()
if sys.argv[1] == "lasting":
    lasting.ignore_lost_reader()
log = logging.getLogger("prefect.made")
log.warning("read")
sys.stdin.readline()
log.warning("nobody reads this")
print("nor this", flush=True)
"""


@pytest.mark.parametrize(("how", "goes_on"), [("lasting", True), ("as it is", False)])
def test_nobody_reads_its_output(how: str, goes_on: bool) -> None:
    """It goes on; else rich ends it."""
    pipe, env = subprocess.PIPE, {"PREFECT_LOGGING_TO_API_ENABLED": "false"}
    command = [sys.executable, "-c", FLOW, how]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=checks.ROOT, env=env)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert b"read" in process.stderr.readline()
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    assert (process.wait() == 0) is goes_on


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_errors_do_not_end_calls(error: type[BaseException]) -> None:
    """Neither an error nor an exit of the function."""
    calls, enough = [0], threading.Event()

    def call() -> None:
        calls[0] += 1
        if calls[0] == 3:
            enough.set()
        raise error

    with every(0.001, call):
        assert enough.wait(60)
