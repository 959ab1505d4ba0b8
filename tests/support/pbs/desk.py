"""A user at a site of the stand-ins: submits jobs of the launcher, and looks at what they leave."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from made_core.ledger.ledger import Ledger
from made_core.stages import BY_NAME
from tests.support.pbs.jobs import FINISHED, Job, every, load, save
from tests.support.pbs.site import ROOT, Site

SCRIPTS = ROOT / "deployments" / "pbs"
SECONDS = 1800  # for a job; one ends within minutes even on a busy machine


class Desk:
    """Submits jobs from `folder`/work with `folder`/home as $HOME.

    Args:
        variables: given to every job by qsub -v.
    """

    def __init__(self, site: Site, folder: Path, variables: Mapping[str, str]) -> None:
        self.site, self.home, self.work = site, folder / "home", folder / "work"
        self.home.mkdir(parents=True)
        self.work.mkdir()
        self.variables = dict(variables)
        self.env = {**os.environ, "HOME": str(self.home), "PATH": f"{site.install()}:{os.environ['PATH']}"}

    def submit(self, *options: str, script: str, **variables: object) -> str:
        """Returns the job's id."""
        given = ",".join(f"{name}={value}" for name, value in {**self.variables, **variables}.items())
        done = subprocess.run(
            ["qsub", "-j", "oe", "-l", "place=scatter", "-v", given, *options], input=script,
            cwd=self.work, env=self.env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def interactive(self, *options: str, typed: str) -> tuple[Path, str]:
        """Runs qsub -I and types into its terminal; returns a file with what it shows, and the job."""
        screen = self.work / "screen.txt"
        master, slave = pty.openpty()
        given = ",".join(f"{name}={value}" for name, value in self.variables.items())
        subprocess.Popen(
            ["qsub", "-I", "-l", "place=scatter", "-v", given, *options], cwd=self.work, env=self.env,
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

        def record() -> None:
            with screen.open("ab", buffering=0) as file, suppress(OSError):  # until the terminal is closed
                while chunk := os.read(master, 4096):
                    file.write(chunk)
            os.close(master)

        threading.Thread(target=record, daemon=True).start()
        os.write(master, typed.encode())
        until(lambda: screen.exists() and " ready" in screen.read_text(), screen)
        return screen, screen.read_text().partition("qsub: job ")[2].split()[0]

    def curate(self, *options: str, arguments: list[object], **variables: object) -> str:
        """Submits curate.pbs with arguments of `made curate`; returns the job's id."""
        file = self.work / f"arguments-{time.time_ns()}.txt"
        file.write_text("".join(f"{word}\n" for word in arguments))
        script = (SCRIPTS / "curate.pbs").read_text()
        return self.submit(*options, script=script, MADE_ARGUMENTS=file, MADE_SCRIPTS=SCRIPTS, **variables)

    def delete(self, job: str) -> None:
        """Runs qdel."""
        subprocess.run(["qdel", job], env=self.env, check=True)

    def set_walltime(self, job: str, seconds: float) -> None:
        """As an operator's qalter."""
        with self.site.locked():
            known = self.job(job)
            known.walltime = seconds
            save(self.site, known)

    def clear(self) -> None:
        """Ends all jobs."""
        for job in every(self.site):
            if job.state != FINISHED:
                self.delete(job.id)
                self.wait(job.id)
        until(lambda: not self.left(), seconds=60)

    def job(self, job: str) -> Job:
        """The record of a job."""
        found = load(self.site, job)
        assert found is not None
        return found

    def wait(self, job: str) -> int:
        """Waits for the end; returns Exit_status."""
        until(lambda: self.job(job).state == FINISHED, self.printed(job))
        status = self.job(job).exit_status
        assert status is not None
        return status

    def printed(self, job: str) -> Path:
        """What the job has printed so far."""
        return self.site.folder / "jobs" / job / "OU"

    def left(self, job: str = "") -> list[str]:
        """What is left of clusters, of one job or of all: processes, and folders that hosts share."""
        clusters = self.home / ".made" / "clusters"
        prefix = f"{clusters}/{job.partition('.')[0]}-" if job else str(clusters)
        found = [str(path) for path in clusters.glob("*") if str(path).startswith(prefix)]
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"MADE_CLUSTER_NODE={prefix}".encode() in environ.read_bytes():
                    found.append(f"{prefix}: process {environ.parent.name}")
            except OSError:  # ended, or of another user
                pass
        return found


def until(true: Callable[[], object], printed: Path | None = None, seconds: float = SECONDS) -> None:
    """Waits until it is true; raises TimeoutError with what a job printed."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            text = printed.read_text() if printed is not None and printed.exists() else ""
            raise TimeoutError(f"not true after {seconds:g} s\n{text}")
        time.sleep(0.1)


def samples_by_host(url: str, run: str, stage: str | None = None) -> Counter[str]:
    """Samples of a stage's units that are done, by the host that did them; None: of all stages' units."""
    ledger, found = Ledger.open(url), Counter[str]()
    try:
        for status in ledger.progress.of(run):
            if stage in (None, status.stage):
                for key, result in ledger.units.results(BY_NAME[status.stage], status.scope, None).items():
                    if result.output is not None:
                        events = ledger.units.events(BY_NAME[status.stage], status.scope, key)
                        [*_, last] = (event for event in events if event.kind == "done")
                        found[str(last.host).partition(":")[0]] += result.output.samples
    finally:
        ledger.close()
    return found
