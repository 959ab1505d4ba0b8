"""How a flow run ends when the request is wrong: Failed with one sentence, and no traceback in its log."""

from __future__ import annotations

import logging
from typing import Any

from prefect import Flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ParameterBindError, SignatureMismatchError
from prefect.states import Failed

from made_core.errors import MadeError


def failed(error: MadeError) -> State[Any]:
    """The end of a flow: Failed with the error's sentence. A caller of the flow gets the error itself."""
    return Failed(message=" ".join(str(error).split()), data=error)


def explain(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Ends a crashed run whose parameters the flow does not have, or lacks, as Failed with one sentence.

    Prefect binds parameters before it calls the flow, which therefore cannot answer itself; its API takes
    parameters of any name.
    """
    known, required = flow.parameters.properties, flow.parameters.required
    wrong = [
        f"{name}: unknown parameter; allowed: {', '.join(known)}"
        for name in flow_run.parameters
        if name not in known
    ]
    wrong += [f"{name}: missing" for name in required if name not in flow_run.parameters]
    if wrong:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Failed(message="; ".join(wrong)), force=True)


def _without_trace(record: logging.LogRecord) -> bool:
    """Removes the traces that Prefect logs of a mistake: the state's message says what is wrong."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (SignatureMismatchError, ParameterBindError)):
        record.msg, record.args, record.exc_info = (
            "The parameters of the request are not the flow's",
            (),
            None,
        )
    return not isinstance(error, MadeError)


logging.getLogger("prefect.flow_runs").addFilter(_without_trace)
