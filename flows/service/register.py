"""Registers the work pool `made` and the deployments of prefect.yaml.

`python -m flows.service.register RUNS [PYTHON]`: see `register_pool`.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

POOL = "made"
PREFECT_YAML = Path(__file__).parents[2] / "prefect.yaml"  # in a checkout, and beside an installed package


def template(python: str | None = None) -> dict[str, Any]:
    """The pool's base job template: callers can set no command, environment or folder.

    Args:
        python: the interpreter of all its workers. None: each worker's own, which takes Prefect two more
            processes before that of a run, and so some seconds.
    """
    found: dict[str, Any] = json.loads(files("flows.service").joinpath("pool.json").read_text("utf-8"))
    if python is not None:
        found["job_configuration"]["command"] = shlex.join([python, "-m", "prefect.engine"])
    return found


def register_pool(client: SyncPrefectClient, runs: int, python: str | None = None) -> None:
    """Creates or updates the pool.

    Args:
        runs: how many run at once, each with a Ray of its own.
        python: see `template`.
    """
    pool = WorkPoolCreate(
        name=POOL, type="process", base_job_template=template(python), concurrency_limit=runs
    )
    client.create_work_pool(pool, overwrite=True)


def ensure_pool(client: SyncPrefectClient, name: str, kind: str, job_template: dict[str, Any]) -> None:
    """Creates the pool, or leaves it as its owner has set it up."""
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=job_template))
    except ObjectAlreadyExists:
        return


def parameters(flow: Flow[..., Any]) -> dict[str, Any]:
    """The JSON schema of a flow's parameters. The API refuses others; after `prefect deploy` it does not."""
    return {**parameter_schema(flow).model_dump(exclude_unset=True), "additionalProperties": False}


def register_deployments(client: SyncPrefectClient, pool: str | None = None, suffix: str = "") -> None:
    """Creates or updates the deployments of prefect.yaml, with the parameters of the installed flows.

    What `prefect deploy --all` does, without its prompts and from any folder.

    Args:
        pool: another work pool than prefect.yaml names.
        suffix: of the names of deployments in another pool.
    """
    listed = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    for wanted in listed["deployments"]:
        flow: Flow[..., Any] = load_flow_from_entrypoint(wanted["entrypoint"])
        limit, options = _concurrency(wanted.get("concurrency_limit"))
        client.create_deployment(
            client.create_flow_from_name(flow.name), wanted["name"] + suffix,
            entrypoint=wanted["entrypoint"], description=wanted["description"], version=flow.version,
            work_pool_name=pool or wanted["work_pool"]["name"], pull_steps=listed["pull"],
            concurrency_limit=limit, concurrency_options=options,
            parameter_openapi_schema=parameters(flow),
            enforce_parameter_schema=True,
        )  # fmt: skip


def _concurrency(wanted: int | dict[str, Any] | None) -> tuple[int | None, ConcurrencyOptions | None]:
    """The two arguments that Prefect's `concurrency_limit` of a deployment becomes."""
    if isinstance(wanted, dict):
        config = ConcurrencyLimitConfig(**wanted)
        return config.limit, ConcurrencyOptions(collision_strategy=config.collision_strategy)
    return wanted, None


def main() -> None:
    """Registers the pool and the deployments with the server of this environment."""
    with get_client(sync_client=True) as client:
        register_pool(client, int(sys.argv[1]), *sys.argv[2:3])
        register_deployments(client)


if __name__ == "__main__":
    main()
