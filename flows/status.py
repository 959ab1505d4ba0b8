"""`made status`: the ledger as text, as JSON, or live."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.console import console
from flows.targets import known
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run, UnitStatus
from made_core.output.summary import has_shards
from made_core.types import RunState, UnitState

SHOWN = 10  # failed units listed
SLOWEST = 5  # units shown
WATCH_SECONDS = 2.0  # between two refreshes
SHORT_RUN = ("id", "state", "output", "store", "holder", "replaced", "created_at", "updated_at", "error")
INTERRUPTED = "interrupted"  # recorded as running, but no process holds it
STATES = (UnitState.DONE, UnitState.RUNNING, UnitState.OPEN, UnitState.FAILED)


def show(ledger: Ledger, run_id: str | None) -> None:
    """Prints all runs, or the stages of one. Raises UserError if there is no such run."""
    out = console()
    runs = ledger.runs.all() if run_id is None else [known(ledger, run_id)]
    for run in runs:
        out.print(_run(run))
        _print_output(out, run)
    if run_id is not None:
        out.print(_view(ledger, runs[0]), soft_wrap=True)
    elif not runs:
        out.print("no runs in the ledger")


def watch(ledger: Ledger, run_id: str, seconds: float = WATCH_SECONDS) -> None:
    """Shows a run until it ends or Ctrl-C. Raises UserError if there is no such run."""
    run = known(ledger, run_id)
    out = console()
    _print_output(out, run)
    with Live(_watched(ledger, run), console=out, auto_refresh=False) as live:
        try:
            while state_of(run) == RunState.RUNNING.value:
                time.sleep(seconds)
                run = known(ledger, run_id)
                live.update(_watched(ledger, run), refresh=True)
        except KeyboardInterrupt:
            return  # Ctrl-C is the normal way to stop watching


def document(ledger: Ledger, run_id: str | None) -> str:
    """What `show` prints, as JSON: {"runs": [...]}, or for one run
    {"run": {...}, "stages": [...], "slowest": [...], "failures": [...]} with all failures.

    Raises:
        UserError: there is no such run.
    """
    if run_id is None:
        runs = [_plain(run) for run in ledger.runs.all()]
        return _json({"runs": [{name: run[name] for name in SHORT_RUN} for run in runs]})
    run = _plain(known(ledger, run_id))
    stages = []
    for status in ledger.progress.of(run_id):
        values = asdict(status)
        tally = values.pop("tally")
        values["units"] = {state.value: tally["units"][state] for state in STATES}
        stages.append({**values, "samples": tally["samples"]})
    return _json(
        {
            "run": {name: run[name] for name in (*SHORT_RUN, "recipe_digest", "recipe", "summary")},
            "stages": stages,
            "slowest": [asdict(unit) for unit in ledger.progress.slowest(run_id, SLOWEST)],
            "failures": [asdict(unit) for unit in ledger.progress.failures(run_id, None)],
        }
    )


def state_of(run: Run) -> str:
    """The run's state, or `interrupted` if its process has died."""
    return INTERRUPTED if run.state is RunState.RUNNING and not run.held else run.state.value


def _plain(run: Run) -> dict[str, Any]:
    return {**vars(run), "state": state_of(run)}


def _json(value: dict[str, Any]) -> str:
    def other(found: object) -> str:
        if isinstance(found, datetime):
            return found.isoformat()
        raise TypeError(f"{type(found).__name__} is not JSON serializable: {found!r}")

    return json.dumps(value, indent=2, default=other)


def _watched(ledger: Ledger, run: Run) -> RenderableType:
    return Group(_run(run), _view(ledger, run))


def _view(ledger: Ledger, run: Run) -> RenderableType:
    parts: list[RenderableType] = []
    if run.error:
        # A request to stop is no error.
        parts.append(Text(run.error if run.state is RunState.CANCELLED else f"error: {run.error}"))
    parts.append(_stages(ledger, run.id))
    if slowest := ledger.progress.slowest(run.id, SLOWEST):
        parts.append(_slowest(slowest))
    failures = ledger.progress.failures(run.id, SHOWN + 1)
    for unit in failures[:SHOWN]:
        parts.append(Text(f"failed: {unit.stage} {_name(unit)}: {unit.error}"))
    if len(failures) > SHOWN:
        parts.append(Text("failed: more units, --json lists all"))
    return Group(*parts)


def _name(unit: UnitStatus) -> str:
    return unit.shard or unit.key


def _run(run: Run) -> Text:
    state = state_of(run).replace("_", " ") + (" (replaced)" if run.replaced else "")
    return Text.assemble((run.id, "bold"), f"  {state}{_counts(run)}  {run.updated_at:%Y-%m-%d %H:%M:%S %Z}")


def _counts(run: Run) -> str:
    """`: 1,145 in, 1,013 kept` of a run that has completed, else empty."""
    summary = run.summary or {}
    samples = summary.get("samples")
    if not run.state.value.startswith(RunState.COMPLETED.value) or not samples:
        return ""
    shards = "" if has_shards(summary) else ", no shards written"
    return f": {samples['in']:,} in, {samples['kept']:,} kept{shards}"


def _print_output(out: Console, run: Run) -> None:
    """Prints the output on one unwrapped line, so that it can be copied or parsed."""
    out.print(f"  output: {run.output}", soft_wrap=True, markup=False, highlight=False)


def _stages(ledger: Ledger, run_id: str) -> Table:
    table = Table(title="stages")
    table.add_column("stage")
    for name in ("done", "running", "open", "failed", "samples", "samples/s", "ETA"):
        table.add_column(name, justify="right")
    for status in ledger.progress.of(run_id):
        table.add_row(
            status.stage,
            *(f"{status.tally.units[state]:,}" for state in STATES),
            f"{status.tally.samples:,}",
            "" if status.rate is None else f"{status.rate:,.0f}",
            "" if status.eta is None else f"{timedelta(seconds=round(status.eta))}",
        )
    return table


def _slowest(units: list[UnitStatus]) -> Table:
    table = Table(title="slowest units")
    for name in ("stage", "unit", "state"):
        table.add_column(name, overflow="fold")
    for name in ("attempts", "samples", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("host", overflow="fold")
    for unit in units:
        took = "" if unit.seconds is None else f"{unit.seconds:,.1f}"
        table.add_row(
            unit.stage, _name(unit), unit.state.value, str(unit.attempts), f"{unit.samples:,}",
            took, unit.host or "",
        )  # fmt: skip
    return table
