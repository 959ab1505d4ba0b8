"""Ray on this machine, started before a flow needs it: while Prefect's server starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from made_core.recipe import Work
from made_core.settings import settings

MOST = 4  # workers that import early: a small run has few tasks


@contextmanager
def early(work: Work) -> Iterator[None]:
    """Starts Ray, unless MADE_RAY_ADDRESS is set, and workers that import what tasks need.

    Ray ends with the context.
    """
    # Nobody asks for the results of the workers that import early: Ray would print that they were lost.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    import ray  # here, with the flow: they take seconds, and the request is checked before

    from flows import engine

    if settings().ray_address or ray.is_initialized():
        yield
        return
    with engine.own_sigterm():
        ray.init(**engine.LOCAL)
    try:
        resources = ray.cluster_resources()
        if not resources.get("GPU"):  # torch looks for GPUs once, and a task may get one later
            warm = ray.remote(_import).options(num_cpus=work.cpus_per_task, max_retries=0)
            slots = int(resources.get("CPU", 1) / work.cpus_per_task)
            for _ in range(min(slots, MOST)):
                warm.remote()
        import flows.run  # noqa: F401  meanwhile

        yield
    finally:
        ray.shutdown()


def _import() -> None:
    """Imports what the tasks of every stage use. Ray keeps the worker for the tasks of the flow."""
    import flows.run  # noqa: F401
    import made_core.cluster.kmeans
    import made_core.dedup.crowded
    import made_core.embed.embed
    import made_core.embed.encoder  # noqa: F401
