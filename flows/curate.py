"""The flow `made` of `made/curate`: checks the request, then runs it.

What checks a request imports neither Ray nor torch, so that a mistake ends the run within seconds.
"""

from __future__ import annotations

from prefect import flow

from flows import naming, refused
from made_core.output.summary import Summary
from made_core.recipe import Recipe


@flow(
    name="made",
    flow_run_name=naming.of_curate,
    persist_result=False,
    validate_parameters=False,  # `request.checked` does
    on_crashed=[refused.explain],
)
def curate(recipe: Recipe, replace: bool = False) -> Summary:
    """Curates a data set and returns the summary of the run.

    Args:
        recipe: What to read, what to do with it, and where to write.
        replace: Take over an output that belongs to a run of another recipe.

    Raises:
        UserError: the recipe, the sources, the encoder or the output is not valid.
        MadeError: the run failed.
    """
    # Here: workers import this module to know the flow, and run nothing of it.
    from flows import request
    from flows.drive import drive

    summary: Summary = drive(lambda url, flow_run: request.checked(url, recipe, replace, flow_run.deployed))
    return summary
