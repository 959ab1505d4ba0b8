"""compose.yaml's services: healthy in dependency order, a run from the front door, and a clean end."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from tests.support.checks import ROOT
from tests.support.containers import compose
from tests.support.containers.dockerfile import Stage
from tests.support.containers.root import Layer

HEALTHY_SECONDS = 300.0
RUN_SECONDS = 600.0
POST = """
import json, pathlib, urllib.request
token = pathlib.Path("/run/secrets/trigger_token").read_text().strip()
headers = {{"Authorization": "Bearer " + token, "Content-Type": "application/json"}}
request = urllib.request.Request("http://front-door:4280/runs{path}", headers=headers, data={body!r})
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


def curates(file: Path, layers: tuple[Layer, ...], stage: Stage, folder: Path) -> None:
    """Starts the services, curates a sample that the worker draws, ends them in reverse order.

    Raises AssertionError, with the log of the service, for what is not as it should be.
    """
    folder.mkdir()
    subprocess.run([ROOT / "docker" / "make-secrets"], check=True, stdout=subprocess.DEVNULL)
    _, values = compose.load(file, {})
    project = compose.Project(layers, stage, values, file.parent, folder, "madec")
    with project.network():
        try:
            project.up(HEALTHY_SECONDS)
            _ok(project, "worker", ["made", "sample", "/data/sample"])
            recipe = {"sources": ["/data/sample/shards"], "output": "/data/output"}
            started = json.loads(_ok(project, "front-door", ["python", "-c", _request("", recipe)]))
            run = _ended(project, started["id"])
            assert run["state_type"] == "COMPLETED", run
            summary = folder / "volumes" / "data" / "output" / "summary.json"
            assert json.loads(summary.read_text())["samples"]["in"] == 400
        finally:
            names = [service.name for service in project.running]
            killed = project.down()
    assert not killed, f"of {names} these did not end by themselves: {killed}"


def _ended(project: compose.Project, run: str) -> dict[str, str]:
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        found: dict[str, str] = json.loads(
            _ok(project, "front-door", ["python", "-c", _request(f"/{run}", None)])
        )
        if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return found
        time.sleep(2)
    raise AssertionError(f"run {run} did not end:\n{compose.tail(project.folder / 'worker.log')}")


def _ok(project: compose.Project, name: str, command: list[str]) -> str:
    done = project.run(name, ["with-secrets", *command])
    assert done.returncode == 0, f"{command} beside {name}: {done.stderr}"
    return done.stdout


def _request(path: str, body: object) -> str:
    return POST.format(path=path, body=None if body is None else json.dumps(body).encode())
