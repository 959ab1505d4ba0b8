"""The flow of `made/retry`: what failed in a run is done again, and what depends on it; nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from prefect import flow

from flows import generation, servers
from flows.curate import curate
from flows.status import known, state_of
from made_core.errors import UserError
from made_core.ingest import discovery
from made_core.io import files
from made_core.ledger import cleanup
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.output import publish
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.types import FileRef, RunState, Shard, Stage, UnitState


@flow(name="made", persist_result=False)
def retry(
    run_id: str, names: Sequence[str] = (), log_folder: str | None = None, quiet: bool = True
) -> dict[str, Any]:
    """Goes on with a run whose failures were mended. Returns what summary.json holds.

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
            return dict(run.summary or {})
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
    """Whether a completed run's output stands, and its files in the store."""
    if run.summary is None or publish.plan_of(run.output) != run.summary.get("plan"):
        return False
    refs: list[FileRef] = []
    for stage in ledger.stages.of(run.id):
        if stage.stage in cleanup.FOLDERS:  # the others' files are the output's
            keys = None
            if stage.stage is Stage.EMBED:  # which runs share
                keys = [s.fingerprint for s in ledger.runs.shards(run.id)]
            found = ledger.units.results(stage.stage, stage.scope, keys)
            refs += [ref for result in found.values() for ref in result.files]
    return not generation.gone(refs)


def _failed(ledger: Ledger, run: Run) -> list[Shard]:
    """The run's shards that were not embedded: set aside, or opened again since."""
    listed = ledger.runs.shards(run.id)
    scope = next((s.scope for s in ledger.stages.of(run.id) if s.stage is Stage.EMBED), "")
    results = ledger.units.results(Stage.EMBED, scope, [s.fingerprint for s in listed])
    done = {key for key, result in results.items() if result.state is UnitState.DONE}
    return [shard for shard in listed if shard.fingerprint not in done]


def _reopen(ledger: Ledger, run: Run, names: Sequence[str]) -> None:
    """Opens the failed units of the shards that are still what they were, and of all later stages."""
    tried = [s for s in _failed(ledger, run) if not names or s.id in names]
    there = [s.url for s in tried if files.exists(s.url)]
    found = discovery.discover(there, require_stats=False).shards if there else ()
    marks = {shard.fingerprint for shard in found}
    failed: dict[tuple[Stage, str], list[str]] = {}
    for unit in ledger.stages.failures(run.id, None):
        if unit.stage is not Stage.EMBED or unit.key in marks:
            failed.setdefault((unit.stage, unit.scope), []).append(unit.key)
    for (stage, scope), keys in failed.items():
        ledger.units.reopen(stage, scope, keys)
