"""Which run a person means: by its id in the ledger, its output, or a flow run of Prefect."""

from __future__ import annotations

import re
from uuid import UUID

from made_core.errors import UserError
from made_core.io import files
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run

SHOWN = 5  # runs in a message
# The id of a flow run, or the address of its page.
FLOW_RUN = re.compile(r"(?:https?://\S*/flow-run/)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\?\S*)?")


def find(ledger: Ledger, named: str, show_outputs: bool = True) -> Run:
    """The run that `named` names.

    Args:
        show_outputs: whether the message may tell where other runs write.

    Raises:
        UserError: there is none; the message lists the latest runs.
    """
    named = named.strip()
    if run := ledger.runs.get(named):
        return run
    if flow_run := FLOW_RUN.fullmatch(named):
        return _of_flow_run(ledger, UUID(flow_run[1]))
    if run := ledger.runs.of_output(files.absolute(named)):
        return run
    runs = ledger.runs.all()[:SHOWN]
    latest = ", ".join(f"{run.id} ({run.output})" if show_outputs else run.id for run in runs) or "none"
    raise UserError(f"no run {named} in the ledger, by id, output or flow run; the latest are: {latest}")


def known(ledger: Ledger, run_id: str) -> Run:
    """The run with this id. Raises UserError, which lists the latest runs, if there is none."""
    run = ledger.runs.get(run_id)
    if run is None:
        latest = ", ".join(run.id for run in ledger.runs.all()[:SHOWN]) or "none"
        raise UserError(f"no run {run_id} in the ledger; the latest are: {latest}")
    return run


def _of_flow_run(ledger: Ledger, flow_run: UUID) -> Run:
    import httpx  # here: Prefect takes seconds, and `made status` mostly gets a run's id
    from prefect.settings import get_current_settings

    from flows.flow_run import run_of

    if get_current_settings().api.url is None:  # Prefect would start a server of its own, which knows no run
        raise UserError(
            f"flow run {flow_run}: no Prefect server is known here: set PREFECT_API_URL, or name a run's id "
            "or its output"
        )
    try:
        run = run_of(flow_run)
    except httpx.HTTPError as error:
        raise UserError(
            f"flow run {flow_run}: Prefect's server does not answer ({error}); name a run's id or its output"
        ) from None
    if run is None:
        raise UserError(
            f"flow run {flow_run} is not known to Prefect, or ended before its run began in the ledger; "
            "name a run's id (see made status) or its output"
        )
    return known(ledger, run)
