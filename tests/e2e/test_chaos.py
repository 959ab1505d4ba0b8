"""The bounded form of `make chaos`: one run, a kill of each kind but of Ray's head, and the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.chaos.plan import FIRST
from tests.checks import ROOT

KILLS = FIRST[:-2]  # without the head, whose death costs a new cluster: that is for make chaos


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """What the run told of itself."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_API", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--kills", str(len(KILLS))],
        cwd=ROOT, env=own, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_the_output_is_as_if_nothing_had_happened(figures: dict[str, Any]) -> None:
    assert figures["equal"] == figures["rounds"] and not figures["errors"] and figures["passed"]
    kinds = figures["by_kind"]
    assert set(kinds) >= {kill.kind for kill in KILLS} - {"disk"}
    if "disk" not in kinds:
        pytest.skip("the disk was not filled: to mount a tmpfs takes root")


def test_a_worker_killed_in_mid_shard_costs_that_shard(figures: dict[str, Any]) -> None:
    assert figures["one_shard_again"]
    assert figures["embed_claims"] == [1, 1, 1, 1, 1, 2]
