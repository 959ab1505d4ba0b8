"""One PostgreSQL, Prefect server, S3 server and local Ray for all end-to-end tests of a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ray
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED,
    get_current_settings,
    temporary_settings,
)
from ray._private.node import Node

from flows.private_server import private_server
from flows.progress import shown
from flows.service import register
from made_core.ledger import postgres
from made_core.recipe_file import validate
from made_core.sample.write import write_sample
from made_core.settings import settings
from tests.support import prefect_database, s3
from tests.support.runs import Curate


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ledger's URL, while the servers are running."""
    home = tmp_path_factory.mktemp("home")
    os.environ["MADE_HOME"] = str(home)
    settings.cache_clear()
    prefect_database.copy(home / prefect_database.NAME)
    # Some tests read task runs, which a lasting server stores and a private one does not.
    recorder = {PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED: True}
    # The S3 environment is set before Ray starts, so that its workers inherit it.
    with (
        temporary_settings(recorder),
        postgres.embedded(home) as url,
        private_server(tmp_path_factory.mktemp("prefect")) as server,
        temporary_settings(
            {
                PREFECT_API_URL: server.api_url,
                PREFECT_API_AUTH_STRING: server.auth_string,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            }
        ),
        s3.server(),
    ):
        os.environ["MADE_DATABASE_URL"] = url
        settings.cache_clear()
        server.wait()
        start_ray()
        yield url
        ray.shutdown()
        del os.environ["MADE_DATABASE_URL"], os.environ["MADE_HOME"]
        settings.cache_clear()


def start_ray() -> None:
    """Without its processes that follow log files and scale clusters, which nobody here asks."""
    with mock.patch.object(Node, "start_log_monitor"), mock.patch.object(Node, "start_monitor"):
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)


@pytest.fixture(scope="session")
def elsewhere(servers: str) -> dict[str, str]:
    """The environment of a process that uses the session's servers and Ray."""
    login = get_current_settings().api.auth_string
    assert login is not None
    return {
        **os.environ,
        "MADE_RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PREFECT_API_AUTH_STRING": login.get_secret_value(),
    }


@pytest.fixture(scope="session")
def deployments(elsewhere: dict[str, str]) -> dict[str, str]:
    """The environment of a process that uses the session's servers, where the deployments are registered."""
    with get_client(sync_client=True) as client:
        register.register_pool(client, runs=4)
        register.register_deployments(client)
    return elsewhere


@pytest.fixture
def curate(servers: str) -> Curate:
    """Runs the flow: curate(source, ..., output=..., dedup={...}) -> the summary."""
    from flows.curate import curate as flow

    def run(
        *sources: Path, output: Path, replace: bool = False, quiet: bool = True, **parts: Any
    ) -> dict[str, Any]:
        values = {"sources": [str(s) for s in sources], "output": str(output), **parts}
        with nullcontext() if quiet else shown():
            return flow(validate(values, "the test"), replace).document()

    return run


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted sample of 400 images in 4 shards: `sample / "shards"`, `sample / "truth.json"`."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, samples=400, shards=4, seed=3)
    return folder


@pytest.fixture(scope="session")
def first(
    servers: str, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The planted sample curated with defaults: (output, summary)."""
    from flows.curate import curate as flow

    output = tmp_path_factory.mktemp("first") / "output"
    recipe = validate({"sources": [str(sample / "shards")], "output": str(output)}, "the test")
    return output, flow(recipe).document()
