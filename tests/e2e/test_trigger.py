"""`made trigger`, the front door and a worker: the end of an upstream job starts one run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from made_core.io import paths
from made_core.output.claim import RunMark
from made_core.recipe_file import validate
from made_core.sample.write import write_sample
from tests.support import doors
from tests.support.doors import Door
from tests.support.runs import MADE


@pytest.fixture(scope="module")
def door(servers: str, tmp_path_factory: pytest.TempPathFactory, elsewhere: dict[str, str]) -> Iterator[Door]:
    """A front door before the session's Prefect server, which has the deployment `made/curate`."""
    doors.deploy()
    with doors.front_door(elsewhere, tmp_path_factory.mktemp("door")) as door:
        yield door


def trigger(door: Door, *args: str | Path, code: int = 0) -> list[str]:
    """The lines that `made trigger ARGS` prints."""
    done = subprocess.run(
        [MADE, "trigger", *map(str, args)], capture_output=True, text=True, env=door.environ, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return (done.stdout if code in (0, 3) else done.stderr).splitlines()


def runs(door: Door) -> list[dict[str, str]]:
    """The runs of the front door."""
    with door.client() as client:
        return list(client.get("/runs").json())


def end(run: str, kind: StateType) -> None:
    """Ends a run as its worker would."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, State(type=kind), force=True)


def test_one_job_one_run(door: Door, tmp_path: Path) -> None:
    """Posted twice: one run. With a shard more, or where the output is gone: another run.

    `make test-img2dataset` lets a worker run them.
    """
    write_sample(tmp_path, samples=60, shards=3, seed=8)
    shards, spare, output = tmp_path / "shards", tmp_path / "spare", tmp_path / "out"
    spare.mkdir()
    for path in shards.glob("00002*"):
        shutil.move(path, spare / path.name)
    args = (shards, "--output", output)
    started, url = trigger(door, *args)
    first = url.rpartition("/")[2]
    assert started.startswith("started: run ") and "/runs/flow-run/" in url
    assert trigger(door, *args)[0].startswith("already there: run ")
    complete(first, output)
    assert trigger(door, *args, "--wait") == [
        started.replace("started", "already there").replace("Scheduled", "Completed"), url, "Completed",
        f"output: {output}",
    ]  # fmt: skip
    for path in spare.iterdir():
        shutil.move(path, shards / path.name)
    started, url = trigger(door, *args)
    assert started.startswith("started: run ") and first not in url
    complete(url.rpartition("/")[2], output)
    shutil.rmtree(output)
    assert trigger(door, *args)[0].startswith("started: run ")


def complete(run: str, output: Path) -> None:
    """Ends a run as its worker would, with an output as far as the front door looks at it."""
    output.mkdir(exist_ok=True)
    mark = RunMark(run=run, recipe_digest=recipe_digest_of(run))
    (output / "run.json").write_text(mark.model_dump_json())
    (output / "summary.json").touch()
    end(run, StateType.COMPLETED)


def recipe_digest_of(run: str) -> str:
    """Of the recipe that a run was started with."""
    with get_client(sync_client=True) as client:
        recipe = client.read_flow_run(UUID(run)).parameters["recipe"]
    return paths.located(validate(recipe, None)).recipe_digest


def test_waiting_ends_as_the_run_does(door: Door, tmp_path: Path) -> None:
    """The exit codes of `made curate`."""
    write_sample(tmp_path, samples=20, shards=1, seed=8)
    for kind, name, code in [
        (StateType.FAILED, "Failed", 1),
        (StateType.CANCELLED, "Cancelled", 1),
        (StateType.COMPLETED, "CompletedWithFailures", 3),
    ]:
        output = tmp_path / name
        args = [MADE, "trigger", str(tmp_path / "shards"), "--output", str(output), "--wait"]
        waiting = subprocess.Popen(args, env=door.environ, stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("started: run ")
        run = waiting.stdout.readline().strip().rpartition("/")[2]
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(run), State(type=kind, name=name, message="the end"), force=True)
        said = waiting.stdout.read().splitlines()
        assert (waiting.wait(60), said[-1]) == (code, f"{name}: the end")


@pytest.mark.parametrize("kind", [StateType.FAILED, StateType.CRASHED, StateType.CANCELLED])
def test_a_run_that_did_not_complete_swallows_nothing(door: Door, tmp_path: Path, kind: StateType) -> None:
    write_sample(tmp_path, samples=20, shards=1, seed=8)
    recipe = {"sources": [str(tmp_path / "shards")], "output": str(tmp_path / "out")}
    with door.client() as client:
        seen = []
        for _ in range(2):
            first = client.post("/runs", json=recipe)
            again = client.post("/runs", json=recipe)
            assert (first.status_code, again.status_code) == (201, 200)
            assert first.json()["id"] == again.json()["id"] not in seen
            seen.append(first.json()["id"])
            end(seen[-1], kind)
    with get_client(sync_client=True) as api:
        assert [api.read_flow_run(run).parameters["recipe"] for run in seen] == [recipe, recipe]


def test_status_and_cancel_of_own_runs(door: Door, tmp_path: Path) -> None:
    write_sample(tmp_path, samples=20, shards=1, seed=8)
    with door.client() as client, get_client(sync_client=True) as api:
        deployment = api.read_deployment_by_name("made/curate")
        recipe = {"sources": [str(tmp_path / "shards")], "output": str(tmp_path / "out")}
        foreign = api.create_flow_run_from_deployment(deployment.id, parameters={"recipe": recipe})
        own = client.post("/runs", json=recipe).json()
        shown = client.get(f"/runs/{own['id']}").json()
        assert (shown["state"], shown["output"]) == ("Scheduled", recipe["output"])
        for path, method in ((f"/runs/{foreign.id}", "GET"), (f"/runs/{foreign.id}/cancel", "POST")):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["detail"]) == (
                404, f"no run {foreign.id} was started by this front door",
            )  # fmt: skip
        assert foreign.id not in [run["id"] for run in client.get("/runs").json()]
        assert client.post(f"/runs/{own['id']}/cancel").status_code == 202
        assert client.get(f"/runs/{own['id']}").json()["type"] in ("CANCELLED", "CANCELLING")
        end(own["id"], StateType.CANCELLED)
        assert client.post(f"/runs/{own['id']}/cancel").status_code == 409
        api.delete_flow_run(foreign.id)
        assert api.read_flow_run(own["id"]).tags == ["made-trigger"]


def test_an_unfinished_job_is_refused(door: Door, tmp_path: Path) -> None:
    """By the command, and by the front door where the command is not used."""
    write_sample(tmp_path, samples=40, shards=4, seed=8)
    shards = tmp_path / "shards"
    (shards / "_tmp").mkdir()
    (shards / "_tmp" / "4.feather").touch()
    (shards / "00002_stats.json").unlink()
    before = len(runs(door))
    [line] = trigger(door, shards, "--output", tmp_path / "out", code=2)
    assert "00002 (no _stats.json), 00004 (missing)" in line and line.startswith("made: ")
    with door.client() as client:
        answer = client.post("/runs", json={"sources": [str(shards)], "output": str(tmp_path / "out")})
    assert answer.status_code == 422 and f"made: {answer.json()['detail']}" == line
    assert len(runs(door)) == before


def test_mistakes_of_the_caller(door: Door, tmp_path: Path) -> None:
    write_sample(tmp_path, samples=20, shards=1, seed=8)
    args = (tmp_path / "shards", "--output", tmp_path / "out")
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("not the token")
    for change, sentence in [
        ({"MADE_TRIGGER_TOKEN_FILE": str(wrong)}, "the trigger token is missing or wrong"),
        ({"MADE_TRIGGER_TOKEN_FILE": str(tmp_path / "none")}, "no trigger token at"),
        ({"MADE_FRONT_DOOR": "http://127.0.0.1:9"}, "no front door answers at http://127.0.0.1:9"),
    ]:
        other = Door(door.url, door.token, {**door.environ, **change}, door.log)
        assert sentence in trigger(other, *args, code=2)[0]
    assert "clusters" in trigger(door, *args, "--set", "clusters.k=0", code=2)[0]


def test_the_token_is_nowhere_else(door: Door, tmp_path: Path) -> None:
    """Neither in the log, nor on the command line, nor in what Prefect stores."""
    write_sample(tmp_path, samples=20, shards=1, seed=8)
    trigger(door, tmp_path / "shards", "--output", tmp_path / "out")
    assert door.token not in door.log.read_text()
    everything = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert door.token not in everything
    user, _, word = door.environ["PREFECT_API_AUTH_STRING"].partition(":")
    api = httpx.Client(base_url=door.environ["PREFECT_API_URL"], auth=(user, word))
    stored = [api.post(f"/{kind}/filter", json={}).text for kind in ("flow_runs", "logs", "artifacts")]
    assert all(json.loads(text) is not None and door.token not in text for text in stored)
