"""The flow of `made/retry`: recomputes what failed in a run and what depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from prefect import flow

from flows import hold, naming, refused, request, targets, unchanged
from flows.drive import drive
from flows.flow_run import FlowRun
from flows.request import Request
from flows.status import state_of
from made_core.errors import UserError
from made_core.ingest import discovery
from made_core.io import files
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.output.summary import Summary, parsed
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.stages import BY_NAME, EMBED
from made_core.types import RunState, Shard, UnitState


@flow(name="made", flow_run_name=naming.of_retry, persist_result=False, on_crashed=[refused.explain])
def retry(run: str, names: Sequence[str] = ()) -> Summary:
    """Retries the failed shards of a run and returns its summary.

    A shard whose file has changed is a new shard and is always embedded; the failure of the old one stays
    in the ledger as history. A run that failed, was cancelled or died goes on.

    Args:
        run: The run: its id in the ledger, its output, or the id or address of a flow run of it.
        names: Ids of the failed shards to retry; empty: all failed shards.

    Raises:
        UserError: no such run, a live or replaced run, or a shard that did not fail.
        MadeError: the run failed.
    """

    def check(url: str, flow_run: FlowRun) -> Request | Summary:
        with closing(Ledger.open(url)) as ledger:
            found = targets.find(ledger, run)
            flow_run.rename(naming.retry_of(found.output))
            if hold.freed(ledger, found.output, flow_run):
                found = targets.known(ledger, found.id)
            recipe = wanted(ledger, found, names)
            if recipe is None:
                return parsed(found.summary or {}, found.id)
            checked = request.checked(url, recipe, False, flow_run.deployed)
            _reopen(ledger, found, names)
            return checked

    summary: Summary = drive(check)
    return summary


def wanted(ledger: Ledger, run: Run, names: Sequence[str]) -> Recipe | None:
    """The recipe to resume with; None if nothing failed and no file is missing. Changes nothing.

    Raises:
        UserError: a live or replaced run, or a shard that did not fail.
    """
    if state_of(run) == RunState.RUNNING.value:
        raise UserError(
            f"run {run.id} is held by {run.holder} until {run.lease_until:%Y-%m-%d %H:%M:%S %Z} "
            "unless renewed: wait until it ends"
        )
    if run.replaced:
        owner = ledger.runs.of_output(run.output)
        raise UserError(
            f"run {run.id} is replaced: its output {run.output} belongs to run {owner.id if owner else '?'}"
        )
    failed = {shard.id for shard in _failed(ledger, run)}
    for name in names:
        if name not in failed:
            some = ", ".join(sorted(failed)[:5]) or "none"
            raise UserError(f"shard {name} did not fail in run {run.id}; failed ({len(failed)}): {some}")
    if unchanged.whole(ledger, run):
        return None
    return validate(run.recipe, f"run {run.id}")


def _failed(ledger: Ledger, run: Run) -> list[Shard]:
    """The run's shards that are not embedded: failed, or reopened since."""
    listed = ledger.runs.shards(run.id)
    status = next((s for s in ledger.progress.of(run.id) if s.stage == EMBED.name), None)
    if status is None or status.version != EMBED.version:
        return listed
    results = ledger.units.results(EMBED, status.scope, [s.fingerprint for s in listed])
    done = {key for key, result in results.items() if result.state is UnitState.DONE}
    return [shard for shard in listed if shard.fingerprint not in done]


def _reopen(ledger: Ledger, run: Run, names: Sequence[str]) -> None:
    """Reopens the failed units of unchanged shards and of all later stages."""
    tried = [s for s in _failed(ledger, run) if not names or s.id in names]
    there = [s.url for s in tried if files.exists(s.url)]
    found = discovery.discover(there, require_stats=False).shards if there else ()
    unchanged = {shard.fingerprint for shard in found}
    failed: dict[tuple[str, str], list[str]] = {}
    for unit in ledger.progress.failures(run.id, None):
        if unit.stage != EMBED.name or unit.key in unchanged:
            failed.setdefault((unit.stage, unit.scope), []).append(unit.key)
    for (name, scope), keys in failed.items():
        if name in BY_NAME:  # otherwise of an earlier version of made, whose results are not used
            ledger.units.reopen(BY_NAME[name], scope, keys)
