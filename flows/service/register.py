"""The work pool `made` and the deployments of prefect.yaml: `python -m flows.service.register RUNS`."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

POOL = "made"
# Prefect would copy the worker's folder for each run. The flows are in the installed package instead, and
# `/` exists on every machine and is never removed.
PULL = [{"prefect.deployments.steps.set_working_directory": {"directory": "/"}}]
# prefect.yaml says the same; a test compares what the two register.
DEPLOYMENTS = {
    "curate": (
        "flows.curate.curate",
        "Curate a data set. `recipe` needs `sources` and `output`; every other field has a default.",
    ),
    "retry": (
        "flows.retry.retry",
        "Retry the failed shards of a run after the cause is fixed. `run` is its id, its output or a flow "
        "run of it; `names` are ids of failed shards, by default all.",
    ),
}


def template() -> dict[str, Any]:
    """The pool's base job template: callers can set no command, environment or folder."""
    found: dict[str, Any] = json.loads(files("flows.service").joinpath("pool.json").read_text("utf-8"))
    return found


def register_pool(client: SyncPrefectClient, runs: int) -> None:
    """Creates or updates the pool. `runs`: how many run at once, each with a Ray of its own."""
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template(), concurrency_limit=runs)
    client.create_work_pool(pool, overwrite=True)


def register_deployments(client: SyncPrefectClient) -> None:
    """Creates or updates the deployments, with the parameters of the installed flows."""
    for name, (entrypoint, description) in DEPLOYMENTS.items():
        flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint)
        client.create_deployment(
            client.create_flow_from_name(flow.name), name,
            entrypoint=entrypoint, description=description, version=flow.version, work_pool_name=POOL,
            pull_steps=PULL, parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
            enforce_parameter_schema=True,
        )  # fmt: skip


def main() -> None:
    """Registers the pool and the deployments with the server of this environment."""
    with get_client(sync_client=True) as client:
        register_pool(client, int(sys.argv[1]))
        register_deployments(client)


if __name__ == "__main__":
    main()
