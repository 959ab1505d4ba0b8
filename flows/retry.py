"""The flow of `made/retry`: what failed in a run is done again, and what depends on it; nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from prefect import flow

from flows import generation, servers
from flows.curate import curate
from flows.status import known, state_of
from made_core.errors import OutdatedRun, UserError
from made_core.ingest import discovery
from made_core.io import files
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.output import publish
from made_core.output.summary import Summary, parsed
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.stages import BY_NAME, EMBED, STAGES
from made_core.types import FileRef, RunState, Shard, UnitState


@flow(name="made", persist_result=False)
def retry(
    run_id: str, names: Sequence[str] = (), log_folder: str | None = None, quiet: bool = True
) -> Summary:
    """Resumes a run whose failures were fixed. Returns its summary.

    A shard whose file is another now is a new one, embedded in any case; the failure of the old
    one stays in the ledger as history.

    Args:
        run_id: the run, which no process may drive at the time.
        names: ids of the failed shards to try again; none: all that failed.
        log_folder: where workers put their logs.
        quiet: show no progress on the terminal.

    Raises:
        UserError: no such run, a live or a replaced one, or a shard that did not fail.
        MadeError: the run could not go on.
    """
    with servers.database() as url, closing(Ledger.open(url)) as ledger:
        run = known(ledger, run_id)
        recipe = wanted(ledger, run, names)
        if recipe is None:
            return parsed(run.summary or {}, run.id)
        _reopen(ledger, run, names)
    return curate(recipe, log_folder=log_folder, quiet=quiet)


def wanted(ledger: Ledger, run: Run, names: Sequence[str]) -> Recipe | None:
    """The recipe to go on with; None where nothing failed and no file is gone. It changes nothing.

    Raises:
        UserError: a live or a replaced run, or a shard that did not fail.
    """
    if state_of(run) == RunState.RUNNING.value:
        raise UserError(
            f"run {run.id} is held by {run.holder} until {run.lease_until:%Y-%m-%d %H:%M:%S %Z} "
            "unless renewed: wait for its end"
        )
    if run.replaced:
        owner = ledger.runs.of_output(run.output)
        raise UserError(f"run {run.id}: its output {run.output} belongs to run {owner.id if owner else '?'}")
    failed = {shard.id for shard in _failed(ledger, run)}
    for name in names:
        if name not in failed:
            some = ", ".join(sorted(failed)[:5]) or "none"
            raise UserError(f"shard {name} is none that failed in run {run.id} ({len(failed)}: {some})")
    if run.state is RunState.COMPLETED and _whole(ledger, run):
        return None
    return validate(run.recipe, f"run {run.id}")


def _whole(ledger: Ledger, run: Run) -> bool:
    """Whether a completed run's output is there, and its files in the store, made by this version."""
    if run.summary is None or publish.decisions_of(run.output) != run.summary.get("decisions_digest"):
        return False
    refs: list[FileRef] = []
    try:
        for stage in STAGES:
            if not stage.in_output:
                outputs = (r.output for r in ledger.units.of_run(run.id, stage).values())
                refs += [ref for output in outputs if output is not None for ref in output.refs]
    except OutdatedRun:
        return False
    return not generation.missing(refs)


def _failed(ledger: Ledger, run: Run) -> list[Shard]:
    """The run's shards that were not embedded: failed, or opened again since."""
    listed = ledger.runs.shards(run.id)
    status = next((s for s in ledger.progress.of(run.id) if s.stage == EMBED.name), None)
    if status is None or status.version != EMBED.version:
        return listed
    results = ledger.units.results(EMBED, status.scope, [s.fingerprint for s in listed])
    done = {key for key, result in results.items() if result.state is UnitState.DONE}
    return [shard for shard in listed if shard.fingerprint not in done]


def _reopen(ledger: Ledger, run: Run, names: Sequence[str]) -> None:
    """Opens the failed units of the shards that are still what they were, and of all later stages."""
    tried = [s for s in _failed(ledger, run) if not names or s.id in names]
    there = [s.url for s in tried if files.exists(s.url)]
    found = discovery.discover(there, require_stats=False).shards if there else ()
    marks = {shard.fingerprint for shard in found}
    failed: dict[tuple[str, str], list[str]] = {}
    for unit in ledger.progress.failures(run.id, None):
        if unit.stage != EMBED.name or unit.key in marks:
            failed.setdefault((unit.stage, unit.scope), []).append(unit.key)
    for (name, scope), keys in failed.items():
        if name in BY_NAME:  # else of an earlier version of made, whose results are not used
            ledger.units.reopen(BY_NAME[name], scope, keys)
