"""A short form of `make chaos`: one run on one Ray node, with all kinds of kills except of nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from threading import Timer
from typing import Any

import pytest

from tests.chaos.plan import FIRST
from tests.support.checks import ROOT

SECONDS = 540  # on a busy machine; 90 on a quiet one with two cores
KILLS = FIRST[:5]  # without node kills, which take a minute each: only in make chaos


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """The figures that the run printed."""
    dropped = ("PREFECT_API_U", "RAY_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--kills", str(len(KILLS)), "--nodes", "1"],
        cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    timer = Timer(SECONDS, process.terminate)  # it ends the processes that it started
    timer.start()
    printed, _ = process.communicate()
    timer.cancel()
    assert process.returncode == 0, printed[-8000:]
    found: dict[str, Any] = json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])
    return found


def test_output_equals_the_undisturbed_one(figures: dict[str, Any]) -> None:
    assert figures["equal"] == figures["rounds"] and not figures["errors"] and figures["passed"]
    kinds = figures["by_kind"]
    assert set(kinds) >= {kill.kind for kill in KILLS} - {"disk"}
    if "disk" not in kinds:
        pytest.skip("the disk was not filled: mounting a tmpfs needs root")


def test_a_worker_killed_in_mid_shard_costs_that_shard(figures: dict[str, Any]) -> None:
    assert figures["one_shard_again"]
    assert figures["embed_claims"] == [1, 1, 1, 1, 1, 2]
