"""What the front door asks of Prefect: start a run of `made/curate`, look at it, cancel it.

The front door's own runs are those with its tag.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling
from prefect.utilities.urls import url_for

from flows import naming
from flows.service.records import COMPLETED, FINAL, StageProgress, TriggeredRun
from made_core.errors import UserError
from made_core.io import files, paths
from made_core.ledger.ledger import Ledger
from made_core.settings import settings
from made_core.types import UnitState

DEPLOYMENT = "made/curate"
TAG = "made-trigger"  # on the front door's own runs
LISTED = 100  # runs that are listed
LEDGER_SECONDS = 2.0  # for the ledger to answer


class NoSuchRun(UserError):
    """No run of the front door has this id."""


class RunHasEnded(UserError):
    """The run has ended, so it cannot be cancelled."""


def start(parameters: dict[str, Any], output: str, key: str) -> tuple[TriggeredRun, bool]:
    """Starts a run, unless the latest run with this key is live, or completed and its output is there.

    Args:
        parameters: of the deployment.
        output: which names the run; the flow names it again when it starts.
        key: digest of all that the run depends on. Prefect keeps one run for an idempotency key for ever,
            whatever became of it, so each attempt has a key of its own: `<key>-1`, `<key>-2`, ...

    Returns:
        The run, and whether it was started now.

    Raises:
        UserError: Prefect's server has no deployment `made/curate`.
    """
    with _client() as client:
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise UserError(
                f"Prefect's server has no deployment {DEPLOYMENT}: `made up` creates it"
            ) from None
        attempt = 0
        while True:
            attempt += 1
            answer = client.request(
                "POST",
                "/deployments/{id}/create_flow_run",
                path_params={"id": deployment.id},
                json={"parameters": parameters, "idempotency_key": f"{key}-{attempt}", "tags": [TAG],
                      "name": naming.named(output), "state": {"type": StateType.SCHEDULED.value}},
            )  # fmt: skip
            run = FlowRun.model_validate(answer.json())
            if answer.status_code == 201:
                return _described(run), True
            if _stands(run):
                return _described(run), False


def get(run_id: UUID) -> TriggeredRun:
    """One of the front door's runs; raises NoSuchRun."""
    with _client() as client:
        return _described(_own(client, run_id), with_progress=True)


def latest() -> list[TriggeredRun]:
    """The front door's latest runs, the newest first."""
    with _client() as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=LISTED,
        )
    return [_described(run) for run in runs]


def cancel(run_id: UUID) -> TriggeredRun:
    """Asks for the end of one of the front door's runs.

    Raises:
        NoSuchRun: no run of the front door has this id.
        RunHasEnded: it has ended.
    """
    with _client() as client:
        run = _own(client, run_id)
        if _type(run) in FINAL:
            raise RunHasEnded(f"run {run.name} has ended: {_described(run).state}")
        client.set_flow_run_state(run_id, Cancelling(message="cancelled through the front door"))
        return _described(_own(client, run_id))


def _client() -> SyncPrefectClient:
    return get_client(sync_client=True)


def _own(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    missing = f"no run {run_id} was started by this front door"
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:
        raise NoSuchRun(missing) from None
    if TAG not in run.tags:
        raise NoSuchRun(missing)
    return run


def _stands(run: FlowRun) -> bool:
    """Whether a run makes another one needless: it is live, or completed and its output still exists."""
    if _type(run) == COMPLETED:
        return files.exists(files.join(_output(run), paths.SUMMARY))
    return _type(run) not in FINAL


def _type(run: FlowRun) -> str:
    return run.state_type.value if run.state_type else StateType.PENDING.value


def _output(run: FlowRun) -> str:
    recipe = run.parameters.get("recipe")
    return str(recipe.get("output", "")) if isinstance(recipe, dict) else ""


def _described(run: FlowRun, with_progress: bool = False) -> TriggeredRun:
    live = with_progress and _type(run) == StateType.RUNNING.value
    return TriggeredRun(
        id=run.id,
        name=run.name,
        type=_type(run),
        state=run.state_name or "Pending",
        message=(run.state and run.state.message) or "",
        output=_output(run),
        url=url_for("flow-run", obj_id=run.id) or "",
        created_at=run.created,
        started_at=run.start_time,
        ended_at=run.end_time,
        stages=_progress(_output(run)) if live else [],
    )


def _progress(output: str) -> list[StageProgress]:
    """The stages of the run that owns `output`, as the ledger knows them; empty without MADE_DATABASE_URL."""
    url = settings().database_url
    if url is None:
        return []
    with closing(Ledger(url, patience=LEDGER_SECONDS)) as ledger:
        run = ledger.runs.of_output(output)
        if run is None or not run.held:
            return []
        return [
            StageProgress(
                stage=s.stage,
                units=s.planned,
                done=s.tally.units[UnitState.DONE],
                failed=s.tally.units[UnitState.FAILED],
                rate=s.rate,
                eta=s.eta,
            )
            for s in ledger.progress.of(run.id)
        ]
