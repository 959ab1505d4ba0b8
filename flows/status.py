"""`made status`: the ledger in words."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from made_core.data import UnitState
from made_core.errors import UserError
from made_core.state import Ledger, Run

SHOWN = 10  # failed units named


def show(ledger: Ledger, run_id: str | None) -> None:
    """Prints all runs, or one by stage. Raises UserError where there is no such run."""
    console = Console()
    if run_id is None:
        console.print(_runs(ledger.runs()))
        return
    run = ledger.run(run_id)
    if run is None:
        known = ", ".join(r.id for r in ledger.runs()[:5]) or "none"
        raise UserError(f"no run {run_id} in the ledger; the latest are: {known}")
    console.print(_runs([run]))
    if run.error:
        console.print(f"error: {run.error}", markup=False, highlight=False)
    console.print(_stages(ledger, run_id))
    failures = ledger.failures(run_id, SHOWN)
    for unit in failures:
        name = unit.shard or unit.key
        console.print(f"failed: {unit.stage.value} {name}: {unit.error}", markup=False, highlight=False)


def _runs(runs: list[Run]) -> Table:
    table = Table(title="runs")
    for name in ("run", "state", "updated", "output"):
        table.add_column(name, overflow="fold")
    for run in runs:
        state = run.state.value.replace("_", " ")
        if state == "running" and not run.held:
            state = "interrupted"
        state += " (replaced)" if run.replaced else ""
        table.add_row(run.id, state, f"{run.updated_at:%Y-%m-%d %H:%M:%S}", run.output)
    return table


def _stages(ledger: Ledger, run_id: str) -> Table:
    table = Table(title="stages")
    table.add_column("stage")
    for name in ("done", "running", "open", "failed", "samples", "samples/s"):
        table.add_column(name, justify="right")
    for status in ledger.stages(run_id):
        units = status.tally.units
        counts = [units[s] for s in (UnitState.DONE, UnitState.RUNNING, UnitState.OPEN, UnitState.FAILED)]
        rate = ""
        if status.started_at and status.finished_at:
            seconds = (status.finished_at - status.started_at).total_seconds()
            rate = f"{status.tally.samples / seconds:,.0f}" if seconds > 0 else ""
        table.add_row(status.stage.value, *map(str, counts), f"{status.tally.samples:,}", rate)
    return table
