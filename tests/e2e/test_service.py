"""The service with real processes: `made up`, what it starts, who dies, `made down`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.service import ports, processes
from made_core.sample.write import write_sample
from tests.support import browser, checks, form

MADE, PREFECT = (Path(sys.executable).with_name(name) for name in ("made", "prefect"))
PATIENCE = 300  # seconds, on a busy machine
# Of a deployment. Its version is the commit, where `prefect deploy` runs in a clone of a repository.
CHANGING = ("updated", "version", "version_id", "version_info", "last_polled", "status")


class Service:
    """The service of one folder, in the environment of a user who has nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("MADE_", "PREFECT_")
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(names)},
            "HOME": str(folder),
            "MADE_HOME": str(folder / "made"),
        }

    def call(self, *command: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [str(part) for part in command], env=self.environ, cwd=self.folder, capture_output=True,
            text=True, timeout=2 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def processes(self) -> dict[str, dict[str, Any]]:
        done = subprocess.run([str(MADE), "ps", "--json"], env=self.environ, capture_output=True, text=True)
        return {row["name"]: row for row in json.loads(done.stdout)["processes"]}

    def pid(self, name: str) -> int:
        pid = self.processes()[name]["pid"]
        assert isinstance(pid, int)
        return pid

    def kill(self, name: str) -> None:
        """Kills a process, and waits until another one does its work."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            now = self.processes()[name]
            return now["pid"] not in (None, pid) and now["phase"] == "ready"

        until(is_back)

    def supervisor(self) -> int:
        record = json.loads((self.folder / "made" / "service" / "processes.json").read_text())
        return int(record["supervisor"]["pid"])

    def variables(self) -> dict[str, str]:
        lines = self.call("bash", "-c", f'eval "$({MADE} env)"; env -0').split("\0")
        return dict(line.partition("=")[::2] for line in lines if line.startswith(("MADE_", "PREFECT_")))

    def left(self) -> list[str]:
        """Command lines of processes that hold this folder's name in their environment."""
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal() or int(process.name) == os.getpid():
                continue
            try:
                if f"MADE_HOME={self.folder}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


def states(service: Service) -> list[str]:
    """Prefect's states of the flow runs, the newest first."""
    variables = service.variables()
    user, _, word = variables["PREFECT_API_AUTH_STRING"].partition(":")
    reply = httpx.post(
        f"{variables['PREFECT_API_URL']}/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_DESC"},
        auth=(user, word), timeout=30,
    )  # fmt: skip
    return [run["state_type"] for run in reply.json()]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.5)


@contextmanager
def up(folder: Path) -> Iterator[Service]:
    """A service, until the context ends."""
    found = Service(folder)
    try:
        said = found.call(MADE, "up")
        assert "login:" in said and "Prefect UI:" in said
        yield found
    finally:
        found.call(MADE, "down")
        assert found.left() == []


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that is up."""
    with up(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.mark.timeout(1200)
def test_a_deployment_run(service: Service, tmp_path: Path) -> None:
    """Another shell starts a run by name, and sees it in the same ledger."""
    write_sample(tmp_path, samples=60, shards=2, seed=8)
    recipe = {
        "sources": [str(tmp_path / "shards")], "output": str(tmp_path / "out"), "audit": {"queries": 0}
    }  # fmt: skip
    service.call(
        PREFECT, "deployment", "run", "made/curate", "--param", f"recipe={json.dumps(recipe)}", "--watch"
    )
    summary = checks.summary(tmp_path / "out")
    listed = json.loads(service.call(MADE, "status", "--json"))["runs"]
    assert [(run["id"], run["state"]) for run in listed] == [(summary["run"], "completed")]


@browser.needed
def test_the_form_and_a_wrong_value(service: Service, tmp_path: Path) -> None:
    """Sources first; a wrong value gets its message, and starts nothing. (A run: test_pages.py.)"""
    with form.desk(service.variables(), tmp_path) as (page, client, ui):
        form.opened(page, ui)
        form.filled_in(page, tmp_path / "shards", tmp_path / "out")
        runs = client.post("/flow_runs/filter", json={}).text
        assert str(tmp_path) not in runs


def test_pages_ask_the_address_that_they_came_from(service: Service) -> None:
    """So they work through any forwarded port (in a browser: the form's test)."""
    ui = service.variables()["PREFECT_API_URL"].removesuffix("/api")
    assert httpx.get(f"{ui}/ui-settings", timeout=30).json()["api_url"] == "/api"


def test_secrets_stay_with_the_user(service: Service) -> None:
    """Files with secrets are 0600, none is in a command line, and the API asks for the login."""
    variables = service.variables()
    login = variables["PREFECT_API_AUTH_STRING"]
    for path in (
        service.folder / "made/service/service.json",
        service.folder / ".prefect/profiles.toml",
    ):
        assert login in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    password = variables["MADE_DATABASE_URL"].split(":")[2].split("@")[0]
    commands = "\n".join(p.read_text() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
    assert login not in commands and password not in commands
    url = f"{variables['PREFECT_API_URL']}/deployments/name/made/curate"
    assert httpx.get(url).status_code == 401
    user, _, word = login.partition(":")
    assert httpx.get(url, auth=(user, word)).status_code == 200


def test_callers_cannot_choose_the_command(service: Service) -> None:
    variables = service.variables()
    user, _, word = variables["PREFECT_API_AUTH_STRING"].partition(":")
    with httpx.Client(base_url=variables["PREFECT_API_URL"], auth=(user, word), timeout=30) as api:
        deployment = api.get("/deployments/name/made/curate").json()["id"]
        for forbidden in ({"command": "touch /x"}, {"env": {"A": "b"}}, {"working_dir": "/"}):
            body = {"parameters": {"recipe": {"sources": ["/a"], "output": "/b"}}, "job_variables": forbidden}
            reply = api.post(f"/deployments/{deployment}/create_flow_run", json=body)
            assert reply.status_code == 422 and "Additional properties" in reply.text, reply.text


@pytest.mark.service
@pytest.mark.timeout(1200)
def test_what_dies_comes_back(service: Service) -> None:
    """PostgreSQL, server, worker, then the supervisor, whose children are adopted."""
    for name in ("postgres", "prefect", "worker"):
        service.kill(name)
    before = service.processes()
    os.kill(service.supervisor(), signal.SIGKILL)
    assert "supervisor has ended" in service.call(MADE, "ps", code=1)
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    service.call(MADE, "up")
    after = service.processes()
    for name in ("postgres", "prefect"):
        assert after[name]["pid"] == before[name]["pid"]
    assert after["worker"]["pid"] != before["worker"]["pid"]
    assert "already" in service.call(MADE, "up")
    assert service.processes() == after


@pytest.mark.service
def test_prefect_yaml_says_the_same(service: Service) -> None:
    """`prefect deploy --all` registers what `made up` has registered."""
    variables = service.variables()
    user, _, word = variables["PREFECT_API_AUTH_STRING"].partition(":")

    def registered(name: str) -> dict[str, Any]:
        with httpx.Client(base_url=variables["PREFECT_API_URL"], auth=(user, word), timeout=30) as api:
            found: dict[str, Any] = api.get(f"/deployments/name/made/{name}").json()
        found["parameter_openapi_schema"].pop("additionalProperties", None)  # `prefect deploy` cannot say it
        return {key: value for key, value in found.items() if key not in CHANGING}

    before = [registered(name) for name in ("curate", "retry")]
    service.call("bash", "-c", f"cd {checks.ROOT} && {PREFECT} --no-prompt deploy --all")
    after = [registered(name) for name in ("curate", "retry")]
    assert after == before


@pytest.mark.service
@pytest.mark.timeout(1200)
def test_down_ends_a_run_and_up_resumes_it(service: Service, tmp_path: Path) -> None:
    """The ended run is not shown as running, and does not hold the place of the next one."""
    write_sample(tmp_path, samples=200, shards=20, seed=9)
    recipe = {"sources": [str(tmp_path / "shards")], "output": str(tmp_path / "out")}
    start = (PREFECT, "deployment", "run", "made/curate", "--param", f"recipe={json.dumps(recipe)}")
    service.call(*start)
    until(lambda: any((tmp_path / "out" / "store").rglob("*.npy")))
    said = service.call(MADE, "down")
    assert "ended: flow run" in said and "still running" not in said
    assert service.left() == []
    (run,) = [r for r in json.loads(service.call(MADE, "status", "--json"))["runs"]
              if r["output"] == str(tmp_path / "out")]  # fmt: skip
    assert run["state"] not in ("running", "completed") and "re-run to resume" in run["error"]
    service.call(MADE, "up")
    assert states(service)[0] in ("CRASHED", "CANCELLED")
    service.call(*start, "--watch")
    assert checks.summary(tmp_path / "out")["state"] == "completed"


@pytest.mark.service
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("all_of_it", [False, True], ids=["with its worker", "with the whole service"])
def test_a_run_that_died_with_its_worker_is_closed(service: Service, tmp_path: Path, all_of_it: bool) -> None:
    """As after a power cut: Prefect still calls the run running, and counts it against the limit.

    The supervisor starts another worker; if all of the service has died, `made up` does.
    """
    write_sample(tmp_path, samples=200, shards=20, seed=10)
    recipe = {"sources": [str(tmp_path / "shards")], "output": str(tmp_path / "out")}
    start = (PREFECT, "deployment", "run", "made/curate", "--param", f"recipe={json.dumps(recipe)}")
    service.call(*start)
    until(lambda: any((tmp_path / "out" / "store").rglob("*.npy")))
    mark = json.loads((service.folder / "made/service/service.json").read_text())["id"]
    (flow,) = processes.runs(mark).values()
    killed = ["worker", *(["front-door", "prefect", "postgres"] if all_of_it else [])]
    pids = [service.pid(name) for name in killed]
    if all_of_it:
        os.kill(service.supervisor(), signal.SIGKILL)  # else it would start the others again
    os.kill(pids[0], signal.SIGSTOP)  # else the worker would see the flow end
    for pid in (flow.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    if all_of_it:
        service.call(MADE, "up")
    until(lambda: states(service)[0] == "CRASHED")
    service.call(*start, "--watch")
    assert checks.summary(tmp_path / "out")["state"] == "completed"


@pytest.mark.service
@pytest.mark.timeout(1200)
def test_after_a_power_cut_with_a_port_taken(service: Service) -> None:
    """Nothing of the record is taken for alive, the data are there, and the port's new number is said."""
    path = service.folder / "made/service/processes.json"
    pids = [service.supervisor(), *(p["pid"] for p in service.processes().values() if p["pid"])]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    before = service.call(MADE, "status", "--json")
    # These ids are now of other processes: this test's own.
    record = json.loads(path.read_text())
    for process in [record["supervisor"], *(c["process"] for c in record["children"] if c["process"])]:
        process.update(pid=os.getpid(), boot="an earlier boot")
    path.write_text(json.dumps(record))
    port = json.loads((service.folder / "made/service/service.json").read_text())["ports"]["prefect"]
    with socket.socket() as other:
        until(lambda: ports.is_free("127.0.0.1", port))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        said = service.call(MADE, "up")
    assert f"Port {port} of prefect is taken" in said
    assert "made/curate" in service.call(PREFECT, "deployment", "ls")
    assert service.call(MADE, "status", "--json") == before
