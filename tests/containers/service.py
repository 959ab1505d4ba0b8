"""compose.yaml's services: healthy in dependency order, the runs of docs/containers.md, and a clean end."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.checks import ROOT
from tests.support.containers import compose, project
from tests.support.containers.dockerfile import Stage
from tests.support.containers.root import Layer

DOCUMENT = ROOT / "docs" / "containers.md"
EXEC = re.compile(r"^docker compose -f docker/compose\.yaml exec (.*)$", re.MULTILINE)
SAMPLES = 400
STOPPED = ["with-secrets", "prefect", "deployment", "run", "made/curate", "--param",
           'recipe={"sources": ["/data/sample/shards"], "output": "/data/stopped"}']  # fmt: skip
PYTHON = ["with-secrets", "python", "-c"]
UNENDED = """
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print([run.name for run in client.read_flow_runs() if not run.state.is_final()])
"""


def curates(file: Path, layers: tuple[Layer, ...], stage: Stage, folder: Path) -> dict[str, float | None]:
    """Starts the services, runs the commands that the document gives, ends the services in reverse order.

    They end while a run is in progress, start again on the same volumes, and resume it.

    Returns after how many seconds each service was healthy. Raises AssertionError, with the log of the
    service, for what is not as it should be.
    """
    beside = folder / "docker"  # secrets are made beside the script
    beside.mkdir(parents=True)
    script = shutil.copy(file.with_name("make-secrets"), beside)
    subprocess.run([script], check=True, stdout=subprocess.DEVNULL)
    _, values = compose.load(file, {})
    services = project.Project(layers, stage, values, beside, folder, "madec")
    data = folder / "volumes" / "data"
    with services.network():
        with _ended_well(services, folder):
            services.up()
            healthy = {service.name: service.healthy_after for service in services.running}
            for name, command in commands():
                _run(services, name, command)
            for name in ("ray-head", "ray-worker", "worker"):
                log = services.service(name).log.read_text()
                assert "The object store is using /tmp" not in log, f"{name}: too little shared memory"
            outputs = {path.parent.name for path in data.glob("*/summary.json")}
            assert outputs == {"curated", "triggered"}, outputs
            for service in services.running:
                assert "healthcheck" not in service.values or service.process.poll() is None, service.name
            _run(services, "worker", STOPPED)
            services.wait_for_line("worker", "Beginning flow run 'stopped")
        with _ended_well(services, folder):
            services.up()
            assert _run(services, "worker", [*PYTHON, UNENDED]) == "[]\n", "the ended run is shown as running"
            _run(services, "worker", [*STOPPED, "--watch"])
    for name in ("curated", "triggered", "stopped"):
        assert json.loads((data / name / "summary.json").read_text())["samples"]["in"] == SAMPLES
    return healthy


@contextmanager
def _ended_well(services: project.Project, folder: Path) -> Iterator[None]:
    """Ends the services; raises AssertionError if that takes force, or if anything is left."""
    try:
        yield
    finally:
        killed = services.down()
    assert not killed, f"these did not end by themselves: {killed}"
    assert not (left := _processes(folder)), f"these still run: {left}"


def _run(services: project.Project, name: str, command: list[str]) -> str:
    print(f"{name}: {shlex.join(command)}", flush=True)
    done = services.exec(name, command)
    log = project.tail(services.service(name).log)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}{done.stderr}\n{log}"
    return done.stdout


def commands() -> list[tuple[str, list[str]]]:
    """The service and the words of each `docker compose exec` in the document, in order."""
    text = DOCUMENT.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in EXEC.findall(text)]
    return [(words[0], words[1:]) for words in found]


def _processes(folder: Path) -> list[str]:
    """The programs whose root is in the folder's layers."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            if str(folder) in mounts.read_text():
                found.append((mounts.parent / "comm").read_text().strip())
        except OSError:
            continue
    return found
