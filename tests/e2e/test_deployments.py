"""The deployments of prefect.yaml, run by a worker: `prefect deployment run made/...`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from made_core.types import RunState
from tests.support import checks
from tests.support.deployed import prefect


def test_curate_and_retry(servers: str, deployments: dict[str, str], tmp_path: Path) -> None:
    """A run with a broken shard, then its retry after the shard is fixed."""
    write_sample(tmp_path, samples=60, shards=2, seed=8)
    tar, output = tmp_path / "shards" / "00001.tar", tmp_path / "out"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    recipe = {"sources": [str(tmp_path / "shards")], "output": str(output), "audit": {"queries": 0}}
    prefect(deployments, "deployment", "run", "made/curate", "--param", f"recipe={json.dumps(recipe)}")
    prefect(deployments, "worker", "start", "--pool", "made", "--run-once")
    first = checks.summary(output)
    assert first["state"] == RunState.COMPLETED_WITH_FAILURES.value

    tar.write_bytes(whole)
    prefect(deployments, "deployment", "run", "made/retry", "--param", f"run={output}")
    prefect(deployments, "worker", "start", "--pool", "made", "--run-once")
    second = checks.summary(output)
    assert (second["run"], second["state"]) == (first["run"], RunState.COMPLETED.value)
    checks.accounts_balance(output, {t.stem: t for t in (tmp_path / "shards").glob("*.tar")})
    with closing(Ledger.open(servers)) as ledger:
        run = ledger.runs.get(first["run"])
    assert run is not None and run.state is RunState.COMPLETED
