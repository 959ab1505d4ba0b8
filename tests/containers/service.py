"""compose.yaml's services: healthy in dependency order, the runs of docs/containers.md, and a clean end."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.support.checks import ROOT
from tests.support.containers import compose, project
from tests.support.containers.dockerfile import Stage
from tests.support.containers.root import Layer

DOCUMENT = ROOT / "docs" / "containers.md"
EXEC = re.compile(r"^docker compose -f docker/compose\.yaml exec (.*)$", re.MULTILINE)
SAMPLES = 400


def curates(file: Path, layers: tuple[Layer, ...], stage: Stage, folder: Path) -> dict[str, float | None]:
    """Starts the services, runs the commands that the document gives, ends the services in reverse order.

    Returns after how many seconds each service was healthy. Raises AssertionError, with the log of the
    service, for what is not as it should be.
    """
    beside = folder / "docker"  # secrets are made beside the script
    beside.mkdir(parents=True)
    script = shutil.copy(file.with_name("make-secrets"), beside)
    subprocess.run([script], check=True, stdout=subprocess.DEVNULL)
    _, values = compose.load(file, {})
    services = project.Project(layers, stage, values, beside, folder, "madec")
    with services.network():
        try:
            services.up()
            for name, command in commands():
                print(f"{name}: {shlex.join(command)}", flush=True)
                done = services.exec(name, command)
                log = project.tail(services.service(name).log)
                assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}\n{log}"
            _check_outputs(folder / "volumes" / "data")
            for service in services.running:
                assert "healthcheck" not in service.values or service.process.poll() is None, service.name
        finally:
            healthy = {service.name: service.healthy_after for service in services.running}
            killed = services.down()
    assert not killed, f"of {list(healthy)} these did not end by themselves: {killed}"
    left = _processes(folder)
    assert not left, f"these still run: {left}"
    return healthy


def commands() -> list[tuple[str, list[str]]]:
    """The service and the words of each `docker compose exec` in the document, in order."""
    text = DOCUMENT.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in EXEC.findall(text)]
    return [(words[0], words[1:]) for words in found]


def _check_outputs(data: Path) -> None:
    """Two runs of the sample, each with a whole output."""
    summaries = sorted(data.glob("*/summary.json"))
    assert len(summaries) == 2, summaries
    for summary in summaries:
        assert json.loads(summary.read_text())["samples"]["in"] == SAMPLES, summary


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
