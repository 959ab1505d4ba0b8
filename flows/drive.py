"""What the flows share: a request is checked, then run, and its end becomes the state of the flow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.exceptions import TerminationSignal
from prefect.states import Completed

from flows import lasting, preflight, refused, servers, unchanged
from flows.artifacts import put_result
from flows.flow_run import FlowRun
from flows.outcome import Outcome
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
    if flow_run.deployed:
        lasting.ignore_lost_reader()
    try:
        with watch.watching(), Display() as display, servers.database() as url:
            found = check(url, flow_run)
            if isinstance(found, Request):
                done = unchanged.result(url, found)
                if done is None:
                    preflight.check_gpu(found.recipe.encoder)
                    from flows.run import run_request  # imports torch and Ray

                    return run_request(url, found, display, flow_run, watch).state()
                found = done
            flow_run.belongs_to(found.run)
            put_result(flow_run, found, {}, {}, ())
            return Completed(message=f"nothing to do: {Outcome(found).sentence}", data=found)
    except MadeError as error:
        return refused.failed(error)
    # Ray exits where the signal comes while it starts, and pydantic wraps the exception of the signal.
    except (TerminationSignal, SystemExit, Exception):
        if watch.asked() is None:
            raise
        return watch.end()
