"""Ray on this machine, started before a flow needs it: while Prefect's server starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from made_core.errors import MadeError
from made_core.recipe import Work
from made_core.settings import settings

MOST = 4  # workers that import early: a small run has few tasks


def arguments() -> dict[str, Any]:
    """Arguments of ray.init for a Ray on this machine, or the one in RAY_ADDRESS."""
    return {
        # Without an address Ray joins the last `ray start` on this machine, whoever typed it.
        "address": os.environ.get("RAY_ADDRESS") or "local",
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }


def private_token() -> None:
    """Makes the token of Ray on this machine readable by this user alone.

    Ray's ports are open on all addresses and ask for it; Ray itself would make a file that all may read.
    """
    if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

    path = Path.home() / ".ray" / "auth_token"  # where Ray looks unless RAY_AUTH_TOKEN or its path is set
    with suppress(OSError):  # no home folder to write to: Ray says so if it needs the file
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(generate_new_authentication_token())
        path.chmod(0o600)


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
    private_token()
    with engine.own_sigterm():
        try:
            ray.init(**arguments())
        except Exception as error:  # Ray waits 30 s for its processes, and has no class for that
            raise MadeError(
                f"Ray did not start on this machine, which may be busy: {error}; try again"
            ) from None
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
