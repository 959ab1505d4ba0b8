"""What Prefect has of a run that has ended: names, tag, states, artifacts; what the dead left is closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelling, Running

from flows import targets
from flows.curate import curate as flow
from flows.flow_run import TAG
from flows.retry import retry
from made_core.errors import UserError
from made_core.ledger.ledger import Ledger
from made_core.recipe_file import validate
from made_core.sample.write import write_sample
from made_core.types import RunState
from tests.support.runs import Curate


def tagged(run: str) -> FlowRunFilter:
    """The flow runs of a run of the ledger."""
    return FlowRunFilter(tags=FlowRunFilterTags(all_=[f"{TAG}{run}"]))


def flow_runs(run: str) -> list[FlowRun]:
    """Those, the latest last."""
    with get_client(sync_client=True) as client:
        return sorted(client.read_flow_runs(flow_run_filter=tagged(run)), key=lambda r: str(r.created))


def artifacts(flow_run: UUID) -> dict[str, Any]:
    """The data of a flow run's artifacts, by the first two words of their keys."""
    of = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=of)
    assert len(found) == len({a.key for a in found})  # the progress is updated in place
    return {"-".join(str(a.key).split("-")[:2]): a.data for a in found}


def test_a_run_with_a_failed_and_an_unfinished_shard(servers: str, curate: Curate, tmp_path: Path) -> None:
    write_sample(tmp_path, samples=80, shards=4, seed=2)
    source, output = tmp_path / "shards", tmp_path / "curated"
    good = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(good[:5000])
    (source / "00003_stats.json").rename(tmp_path / "stats")  # its job has not finished
    summary = curate(source, output=output)
    assert summary["state"] == RunState.COMPLETED_WITH_FAILURES.value
    shards = summary["shards"]
    assert (shards["in"], shards["failed"], shards["unread"], shards["unfinished_folders"]) == (3, 1, 1, 1)
    assert any(f"{source} is not finished: unfinished shards: 00003" in text for text in summary["warnings"])
    [seen] = flow_runs(summary["run"])
    assert seen.name.startswith("curated 20") and seen.state is not None
    assert (seen.state.type, seen.state.name) == (StateType.COMPLETED, "CompletedWithFailures")
    samples = summary["samples"]
    assert seen.state.message == (
        f"{samples['in']:,} in, {samples['kept']:,} kept; failed shards: 00001; "
        f"unfinished shards, not read: 00003 (run {summary['run']})"
    )
    shown = artifacts(seen.id)
    assert set(shown) == {"made-progress", "made-samples", "made-failed", "made-report"}
    assert "| embed | " in shown["made-progress"] and "3 of 3 | 1 |" in shown["made-progress"]
    failed = json.loads(shown["made-failed"])
    assert [row["shard"].rsplit("/", 1)[-1] for row in failed] == ["00001", "00003.tar"]
    assert "not a complete tar" in failed[0]["error"] and "_stats.json" in failed[1]["error"]
    counts = {row["outcome"]: row["samples"] for row in json.loads(shown["made-samples"])}
    assert counts["Kept"] == samples["kept"] and sum(counts.values()) == samples["in"]
    assert "data:image/jpeg;base64," in shown["made-report"]
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=tagged(summary["run"]))
    names = {task.name for task in tasks}
    assert {"prepare", "identify", "fit", "publish"} <= names
    assert any(name.startswith("embed 0000") for name in names)
    ledger = Ledger.open(servers)

    # Its retry, named by the flow run. A process that died left a flow run and a task run as running.
    (source / "00001.tar").write_bytes(good)
    (tmp_path / "stats").rename(source / "00003_stats.json")
    states: list[State[Any]] = [Running(), Cancelling()]
    with get_client(sync_client=True) as client:
        left = [client.create_flow_run(flow, state=state) for state in states]
        for each in left:
            client.update_flow_run(each.id, tags=[f"{TAG}{summary['run']}"])
        with pytest.raises(
            UserError, match=f"no run {tmp_path} in the ledger, by id, output or flow run.*{output}"
        ):
            targets.find(ledger, str(tmp_path))
        with pytest.raises(UserError, match="ended before its run began"):
            targets.find(ledger, "00000000-0000-4000-8000-000000000000")
        assert targets.find(ledger, f"{output}/").id == summary["run"]
    ledger.close()
    again = retry(str(seen.id))
    assert (again.run, again.state, again.shards.in_) == (summary["run"], RunState.COMPLETED, 4)
    assert not again.lacks_shards
    with get_client(sync_client=True) as client:
        ends = [client.read_flow_run(each.id).state_name for each in left]
    assert ends == ["Crashed", "Cancelled"]
    last = next(run for run in flow_runs(again.run) if run.name.startswith("retry of curated 20"))
    assert last.state is not None and last.state.name == "Completed"
    assert last.state.message == f"{again.samples.in_:,} in, {again.samples.kept:,} kept (run {again.run})"
    assert "made-failed" not in artifacts(last.id)


def test_a_mistake_is_one_sentence(servers: str, tmp_path: Path) -> None:
    recipe = validate({"sources": [str(tmp_path / "none")], "output": str(tmp_path / "out")}, "the test")
    state: State[Any] = flow(recipe, return_state=True)
    assert state.type is StateType.FAILED and state.message is not None and "\n" not in state.message
    assert str(tmp_path / "none") in state.message
