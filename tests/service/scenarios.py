"""What is done to runs of the deployments, and what must hold then in Prefect, ledger and processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
from prefect.client.schemas.objects import StateType
from prefect.states import Scheduled, Suspended

from made_core.errors import StorageFailed
from made_core.ledger.records import Run
from made_core.stages import EMBED
from made_core.types import RunState, Unit, UnitState
from tests.service.place import Place
from tests.support import checks
from tests.support.deployed import Requested, gone, held_up, kill, running, wait

AWAY = 60.0  # seconds without Prefect's server
WORK = {"tasks_in_flight": 1, "shards_per_task": 1, "lease_seconds": 3600}


def curate(place: Place, output: Path, **parts: Any) -> Requested:
    """A run of made/curate that embeds one shard after another, with a lease of an hour."""
    recipe = {"sources": [str(place.source)], "output": str(output), "audit": {"queries": 0}, "work": WORK}
    return Requested("curate", recipe={**recipe, **parts})


def caught(place: Place, output: Path, **parts: Any) -> tuple[Requested, Run, Unit]:
    """The same, while it embeds: it cannot go on before `let_go`."""
    flow_run = curate(place, output, **parts)
    run = running(place.ledger, output)
    return flow_run, run, held_up(place.ledger, run)


def let_go(place: Place, unit: Unit) -> None:
    """Gives the shard back that holds a run up."""
    place.ledger.units.fail(unit, StorageFailed("given back"), 0)


def is_released(place: Place, run: Run, unit: Unit, state: RunState) -> None:
    """The run ended so, and of its shards only the test's is leased."""
    found = place.ledger.runs.get(run.id)
    assert found is not None and (found.state, found.holder) == (state, None), found
    units = place.ledger.units.results(EMBED, unit.scope, None)
    assert [key for key, u in units.items() if u.state is UnitState.RUNNING] == [unit.key]


def completes(place: Place, flow_run: Requested, output: Path) -> None:
    """The flow run completes, and its output accounts for every sample."""
    state = flow_run.until("Completed")
    summary = checks.summary(output)
    samples = summary["samples"]
    assert state.message == f"{samples['in']:,} in, {samples['kept']:,} kept (run {summary['run']})"
    checks.accounts_balance(output, {t.stem: t for t in place.source.glob("*.tar")})


def worker_and_flow_die_together(place: Place, output: Path) -> None:
    """Prefect says Running until the run is started again; then Crashed. Completed runs stay Completed."""
    worker = place.worker()
    before = curate(place, output.with_name("earlier"))
    before.until("Completed")
    first, run, unit = caught(place, output)
    worker.kill()
    kill(first.pid)
    wait(lambda: gone(first.pid), "the end of the process")
    assert first.state.type is StateType.RUNNING
    place.worker()
    second = Requested("retry", run=str(output))
    assert running(place.ledger, output, other=run.holder).id == run.id
    first.until("Crashed")
    wait(lambda: None if first.unfinished_tasks() else True, "the end of its task runs")
    let_go(place, unit)
    completes(place, second, output)
    assert before.state.name == "Completed"


def worker_is_killed(place: Place, output: Path) -> None:
    """The flow goes on without a worker, and completes."""
    worker = place.worker()
    flow_run, _, unit = caught(place, output)
    worker.kill()
    let_go(place, unit)
    completes(place, flow_run, output)
    wait(lambda: gone(flow_run.pid), "the end of the process")
    place.worker()


def suspended_and_resumed(place: Place, output: Path) -> None:
    """The process ends and holds nothing; resumed, the flow run goes on."""
    flow_run, run, unit = caught(place, output)
    flow_run.set(Suspended(timeout_seconds=3600))
    wait(lambda: gone(flow_run.pid), "the end of the process")
    assert flow_run.state.name == "Suspended"
    is_released(place, run, unit, RunState.CANCELLED)
    flow_run.set(Scheduled(name="Resuming"))
    assert running(place.ledger, output, other=run.holder).id == run.id
    let_go(place, unit)
    completes(place, flow_run, output)


def server_is_away(place: Place, output: Path) -> None:
    """For a minute nobody answers for Prefect; the run goes on and completes."""
    flow_run, _, unit = caught(place, output)
    place.stop_server()
    time.sleep(AWAY / 2)
    let_go(place, unit)
    time.sleep(AWAY / 2)
    try:
        httpx.get(place.url)
        raise AssertionError("Prefect's server answers")
    except httpx.ConnectError:
        pass
    place.start_server()
    completes(place, flow_run, output)


def two_runs_on_one_output(place: Place, output: Path) -> None:
    """The second waits, says for whom, and finds the work done."""
    first, run, unit = caught(place, output)
    second = curate(place, output)
    waits = second.until("WaitingForOutput")
    assert f"{output} is being written by run {run.id}" in str(waits.message)
    let_go(place, unit)
    completes(place, first, output)
    completes(place, second, output)
    assert [r.id for r in place.ledger.runs.all() if r.output == str(output)] == [run.id]


def two_outputs_over_one_store(place: Place, output: Path) -> None:
    """Both complete, and each shard is embedded once."""
    outputs = [output / "one", output / "two"]
    flow_runs = [curate(place, out, store=str(output / "store")) for out in outputs]
    for flow_run, out in zip(flow_runs, outputs, strict=True):
        completes(place, flow_run, out)
    run = place.ledger.runs.of_output(str(outputs[0]))
    assert run is not None
    [scope] = [s.scope for s in place.ledger.progress.of(run.id) if s.stage == EMBED.name]
    for key in place.ledger.units.results(EMBED, scope, None):
        kinds = [event.kind for event in place.ledger.units.events(EMBED, scope, key)]
        assert kinds.count("done") == 1, kinds


ALL = (
    worker_and_flow_die_together,
    worker_is_killed,
    suspended_and_resumed,
    server_is_away,
    two_runs_on_one_output,
    two_outputs_over_one_store,
)
