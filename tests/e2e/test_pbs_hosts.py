"""A short form of `make test-pbs`: two hosts in network namespaces, of which one loses its power."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.checks import ROOT
from tests.support.pbs.hosts import trouble

SECONDS = 580  # on a busy machine; 100 on a quiet one with two cores


def test_a_run_on_two_hosts_survives_the_loss_of_one() -> None:
    """The decisions are those of one host, both hosts embedded images, and no process or folder is left."""
    if (why := trouble()) is not None:
        pytest.skip(f"two hosts: {why}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pbs", "--short"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-8000:] + done.stdout
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["passed"] and len(figures["jobs"]) == 2
