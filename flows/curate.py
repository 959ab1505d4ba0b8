"""The flow `made` of `made/curate`: checks the request, then runs it.

What checks a request imports neither Ray nor torch, so that a mistake ends the run within seconds.
"""

from __future__ import annotations

from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Failed

from flows import request, servers
from flows.progress import Display
from made_core.errors import MadeError
from made_core.output.summary import Summary
from made_core.recipe import Recipe


@flow(name="made", persist_result=False, validate_parameters=False)  # `request.checked` validates
def curate(recipe: Recipe, replace: bool = False) -> Summary:
    """Curates a data set and returns the summary of the run.

    Args:
        recipe: What to read, what to do with it, and where to write.
        replace: Take over an output that belongs to a run of another recipe.

    Raises:
        UserError: the recipe, the sources, the encoder or the output is not valid.
        MadeError: the run failed.
    """
    try:
        with Display() as display, servers.database() as url:
            checked = request.checked(url, recipe, replace, deployed())
            from flows.run import run_request

            return run_request(url, checked, display)
    except MadeError as error:
        return cast(Summary, failed(error))


def deployed() -> bool:
    """Whether this flow run was requested from a deployment, and not called by a command."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def failed(error: MadeError) -> State[Any]:
    """The end of a flow: state Failed with the error's sentence, no traceback in its log.

    A caller of the flow gets the error itself.
    """
    return Failed(message=" ".join(str(error).split()), data=error)
