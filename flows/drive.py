"""What the flows share: a request is checked, then run, and its end becomes the state of the flow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.exceptions import TerminationSignal
from prefect.states import Completed

from flows import mistakes, servers
from flows.flow_run import FlowRun
from flows.progress import Display
from flows.request import Request
from flows.watch import Watch
from made_core.errors import MadeError
from made_core.output.summary import Summary


def drive(check: Callable[[str, FlowRun], Request | Summary]) -> Any:
    """Runs what `check` returns, given the ledger's URL; a summary if there is nothing to do.

    Returns:
        The state that the flow ends in. Prefect gives a caller of the flow its data: the Summary, or the
        error, which is raised.
    """
    flow_run = FlowRun.current()
    watch = Watch(flow_run)
    try:
        with watch.watching(), Display() as display, servers.database() as url:
            request = check(url, flow_run)
            if isinstance(request, Summary):
                return Completed(message=f"nothing to do: run {request.run} is completed", data=request)
            from flows.run import run_request  # imports torch and Ray

            return run_request(url, request, display, flow_run, watch).state()
    except MadeError as error:
        return mistakes.failed(error)
    except (TerminationSignal, SystemExit):  # Ray exits where the signal comes while it starts
        if watch.asked() is None:
            raise
        return watch.end()
