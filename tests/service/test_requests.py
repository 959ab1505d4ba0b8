"""Requests of the service: mistakes end in seconds with one sentence; secrets are nowhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from made_core.sample.write import write_sample
from tests.e2e.test_service import MADE, PREFECT, Service
from tests.support.deployed import wait

pytestmark = [pytest.mark.service, pytest.mark.timeout(1200)]
GOAL = 5.0  # seconds from Running to Failed; from Pending too, on a machine that does nothing else
EXPLAINED = 30.0  # seconds after a crash
FINAL = ("COMPLETED", "FAILED", "CANCELLED")


def when(state: dict[str, Any]) -> datetime:
    """The time of a state."""
    return datetime.fromisoformat(state["timestamp"].replace("Z", "+00:00"))


class Api:
    """Prefect's API, as an operator uses it."""

    def __init__(self, service: Service) -> None:
        variables = service.variables()
        user, _, word = variables["PREFECT_API_AUTH_STRING"].partition(":")
        self.client = httpx.Client(base_url=variables["PREFECT_API_URL"], auth=(user, word), timeout=60)
        self.deployment = self.client.get("/deployments/name/made/curate").json()["id"]

    def ended(self, parameters: dict[str, Any], enforce: bool = True) -> dict[str, Any]:
        """A run of made/curate when it has ended; `enforce` false: the API takes any parameters."""
        body = {"parameters": parameters} | ({} if enforce else {"enforce_parameter_schema": False})
        reply = self.client.post(f"/deployments/{self.deployment}/create_flow_run", json=body)
        assert reply.status_code == 201, reply.text
        url = f"/flow_runs/{reply.json()['id']}"

        def found() -> dict[str, Any] | None:
            run: dict[str, Any] = self.client.get(url).json()
            if run["state_type"] == "CRASHED":  # a hook explains it, and makes the run Failed
                since = datetime.now(timezone.utc) - when(run["state"])
                return run if since.total_seconds() > EXPLAINED else None
            return run if run["state_type"] in FINAL else None

        return wait(found, f"the end of {parameters}")

    def seconds(self, flow_run: str) -> dict[str, float]:
        """When a flow run was first in each type of state, in seconds since it was Pending."""
        states = self.client.get("/flow_run_states/", params={"flow_run_id": flow_run}).json()
        at: dict[str, float] = {}
        for state in sorted(states, key=lambda s: str(s["timestamp"])):
            at.setdefault(state["type"], when(state).timestamp())
        return {kind: time - at["PENDING"] for kind, time in at.items()}

    def log(self, flow_run: str) -> str:
        """The log of a flow run, as its page shows it."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200}
        return "\n".join(line["message"] for line in self.client.post("/logs/filter", json=body).json())


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[Api]:
    """The API of the running service."""
    found = Api(service)
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def curated(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The recipe of a run that has completed."""
    folder = tmp_path_factory.mktemp("curated")
    write_sample(folder, samples=60, shards=2, seed=8)
    recipe = {"sources": [str(folder / "shards")], "output": str(folder / "out"), "audit": {"queries": 0}}
    service.call(
        PREFECT, "deployment", "run", "made/curate", "--param", f"recipe={json.dumps(recipe)}", "--watch"
    )
    return recipe


UNKNOWN_MODEL = {"encoder": {"model": "ViT-B-999", "pretrained": "openai"}}


@pytest.mark.parametrize(
    ("recipe", "beside", "sentence"),
    [
        pytest.param(UNKNOWN_MODEL, {}, "ViT-B-999", id="unknown model"),
        pytest.param({"sources": ["/no/such/folder"]}, {}, "/no/such/folder", id="missing source"),
        pytest.param(
            {"output": "relative/out"}, {}, "output: relative/out is a relative", id="relative path"
        ),
        pytest.param({"clusters": {"k": 3}}, {}, "with another recipe", id="output of another recipe"),
        pytest.param({"clusters": {"k": 0}}, None, "clusters.k: ", id="out of bounds, not enforced"),
        pytest.param({}, {"quiet": True}, "quiet: unknown parameter", id="unknown key, not enforced"),
    ],
)
def test_a_mistake_ends_in_seconds(
    service: Service, api: Api, curated: dict[str, Any], recipe: dict[str, Any],
    beside: dict[str, Any] | None, sentence: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Failed, with one sentence in the state and no trace in the log, before Ray starts."""
    run = api.ended({"recipe": {**curated, **recipe}, **(beside or {})}, enforce=beside == {})
    message = str(run["state"]["message"])
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Failed"), run["state"]
    assert sentence in message and "\n" not in message and "Traceback" not in message, message
    at = api.seconds(run["id"])
    log = api.log(run["id"])
    assert "Traceback" not in log and "Error:" not in log and "Ray" not in log, log
    began = at.get("RUNNING", at.get("CRASHED", 0.0))  # unknown parameters: the flow is never called
    with capsys.disabled():
        print(f"\n{sentence}: {at['FAILED']:.1f} s after Pending, {at['FAILED'] - began:.1f} s after "
              f"Running: {message}")  # fmt: skip
    assert at["FAILED"] - began < GOAL, at


def test_secrets_are_nowhere(service: Service, api: Api, curated: dict[str, Any]) -> None:
    """Prefect's login, PostgreSQL's password and the trigger token: after runs, a mistake and a trigger."""
    variables = service.variables()
    login = variables["PREFECT_API_AUTH_STRING"]
    token = (service.folder / "made/service/trigger-token").read_text().strip()
    password = variables["MADE_DATABASE_URL"].split(":")[2].split("@")[0]
    secrets = {"login": login.partition(":")[2], "password": password, "token": token}
    assert all(len(secret) > 16 for secret in secrets.values())
    service.call(MADE, "trigger", curated["sources"][0], "--output", curated["output"] + "-2", "--wait")
    texts = {
        kind: api.client.post(f"/{kind}/filter", json={"limit": 200}).text
        for kind in ("flow_runs", "task_runs", "logs", "artifacts", "deployments", "work_pools")
    }
    assert all(json.loads(text) for text in texts.values()), "nothing was looked at"
    texts["ps"] = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    texts["made status --json"] = service.call(MADE, "status", "--json")
    texts["made ps --json"] = service.call(MADE, "ps", "--json")
    run = json.loads(texts["made status --json"])["runs"][0]["id"]
    texts["made status RUN"] = service.call(MADE, "status", run, "--json")
    for path in Path(curated["output"] + "-2").glob("*.[jh]*"):  # run.json, summary.json, report.html
        texts[path.name] = path.read_text()
    for log in (service.folder / "made/service/logs").iterdir():
        texts[f"log of {log.name}"] = log.read_text(errors="replace")
    assert "summary.json" in texts and "report.html" in texts
    found = [(secret, place) for secret, value in secrets.items() for place, text in texts.items()
             if value in text]  # fmt: skip
    assert found == []


def test_a_folder_of_an_unfinished_job(service: Service, api: Api, tmp_path: Path) -> None:
    """A plain call of the API runs what is there, and the state says what is missing."""
    write_sample(tmp_path, samples=60, shards=3, seed=8)
    shards = tmp_path / "shards"
    (shards / "00001.tar").unlink()
    (shards / "00001_stats.json").unlink()
    (shards / "_tmp").mkdir()
    (shards / "_tmp" / "3.feather").touch()
    recipe = {"sources": [str(shards)], "output": str(tmp_path / "out"), "audit": {"queries": 0}}
    run = api.ended({"recipe": recipe})
    assert run["state_name"] == "CompletedWithFailures", run["state"]
    message = str(run["state"]["message"])
    assert "unfinished shards, not read: 00001, 00003" in message
    assert f"img2dataset runs or was killed: {shards} has a folder _tmp" in message
