"""A command's own Prefect server ends with it, however it ends, and answers nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.private_server import private_server
from made_core.settings import settings
from tests.support import prefect_database
from tests.support.checks import ROOT
from tests.support.deployed import gone, wait

# The server is a program that sleeps; what is tested is who ends it.
COMMAND = """
import sys, time
from pathlib import Path
from flows.cli.terminal import terminable
from flows.private_server import private_server
from prefect.utilities.engine import capture_sigterm
sys.executable = sys.argv[2]
with terminable(), private_server(Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    with capture_sigterm():  # as a flow does
        time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, "made: terminated: re-run to resume"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_it_ends_with_its_command(tmp_path: Path, number: int, code: int, said: str) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path), str(program)],
        cwd=ROOT, env={**os.environ, "MADE_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with command:
        assert command.stdout is not None and command.stderr is not None
        server = int(command.stdout.readline())
        assert not gone(server)
        command.send_signal(number)
        assert command.wait(60) == code
        assert said in command.stderr.read()
    wait(lambda: gone(server), "the end of the server")


def test_others_need_its_login(home: Path, tmp_path: Path) -> None:
    """Its port is reached by every user of the machine, who could read or cancel the run."""
    prefect_database.copy(settings().home_path / prefect_database.NAME)
    with private_server(tmp_path) as server:
        server.wait()
        url = f"{server.api_url}/flow_runs/filter"
        assert httpx.post(url, json={}, timeout=60).status_code == httpx.codes.UNAUTHORIZED
        user, _, word = server.auth_string.partition(":")
        answer = httpx.post(url, json={}, auth=(user, word), timeout=60)
        assert answer.status_code == httpx.codes.OK and answer.json() == []
