"""Two hosts in network namespaces: `python -m tests.pbs [--real FOLDER] [PART...]`.

Jobs of the PBS stand-ins curate the same input on one host, and then, in the parts

    two      on two hosts
    at-once  in two jobs at once on the same hosts, of which one is deleted
    shell    in an interactive job
    servers  in two jobs with a ledger and a Prefect server of their own, of which the first is cut
    moved    in two jobs with own servers on one host each, of which the first is cut
    local    the same as servers, with the servers' data on a node's disk, lost after the first job, and dumps
    cut      in two jobs, of which the first is cut by its walltime
    ssh      on two hosts that are reached by ssh
    killed   on two hosts, of which one loses its power in mid-run

Their decisions must be equal, both hosts must have embedded images, nothing that was done may be done again,
and nothing may be left. Prints a table, then one JSON line; exits 0 only if all of this holds. Needs root,
iproute2, openssh-server and openssh-client.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from tests import pbs_forms as forms
from tests.support import checks
from tests.support.pbs.desk import Desk, samples_by_host, until
from tests.support.pbs.hosts import NET, Machine, machines, trouble, wait_for_sshd
from tests.support.pbs.jobs import FINISHED
from tests.support.pbs.mom import WALLTIME_STATUS as OVER
from tests.support.pbs.site import Host, Site
from tests.support.runs import MADE, events

ONE, TWO = "made-n1", "made-n2"
KILLED = "one of two hosts killed"
REAL = {"clusters.k": "16", "dedup.eps_max": "0.3"}


def main(arguments: list[str]) -> int:
    """Runs and checks; returns 0 if all goals hold."""
    parser = ArgumentParser(prog="python -m tests.pbs", description=__doc__)
    parser.add_argument(
        "--real", type=Path, help="folder with shards/ and encoder/; default: a synthetic sample"
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    if (why := trouble()) is not None:
        print(f"two hosts: {why}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the hosts end as well
    with tempfile.TemporaryDirectory(prefix="made-hosts-") as name:
        folder = Path(name)
        with machines((ONE, TWO), folder) as hosts, service(folder) as variables:
            trial = Trial(folder, hosts, variables, given.real)
            try:
                return trial.run(given.parts or list(PARTS))
            finally:
                trial.clear()


@contextmanager
def service(folder: Path) -> Iterator[dict[str, str]]:
    """`made up` on this machine, which the hosts reach; yields the variables of `made env`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MADE_", "PREFECT_"))}
    env = {**own, "MADE_HOME": str(folder / "service"), "PREFECT_HOME": str(folder / "prefect")}
    subprocess.run([MADE, "up", f"--listen={NET}.1", "--no-worker"], env=env, check=True, stdout=sys.stderr)
    try:
        shown = subprocess.run([MADE, "env"], env=env, check=True, capture_output=True, text=True).stdout
        lines = (line.removeprefix("export ") for line in shown.splitlines() if line.startswith("export "))
        yield dict(shlex.split(line)[0].split("=", 1) for line in lines)
    finally:
        subprocess.run([MADE, "down"], env=env, stdout=sys.stderr)


@dataclass
class Row:
    """A job that completed."""

    seconds: float
    images: dict[str, int]  # embedded, by host
    claims: int  # of shards
    equal: bool = True  # its decisions and those of one host
    lost: float | None = None  # seconds more than with both hosts


@dataclass
class Trial:
    """The jobs, and what is known of them."""

    folder: Path
    hosts: dict[str, Machine]
    variables: dict[str, str]  # of the service
    real: Path | None
    rows: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.url = self.variables["MADE_DATABASE_URL"]
        hosts = tuple(Host(name, 2, enter=machine.enter) for name, machine in self.hosts.items())
        self.site = Site(self.folder / "pbs", hosts)
        names = ("MADE_DATABASE_URL", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
        known = {name: self.variables[name] for name in names}
        self.desk = Desk(self.site, self.folder / "with", known | {"MADE_RAY_DASHBOARD": "0"})
        # Of a user who has no service: neither ledger nor Prefect are given.
        self.bare = Desk(self.site, self.folder / "without", {"MADE_RAY_DASHBOARD": "0"})
        self.arguments: list[object] = ["--set", "work.shards_per_task=1", "--set", "work.lease_seconds=20"]
        if self.real is None:
            write_sample(self.folder / "sample", samples=480, shards=12, seed=3)
            self.arguments += ["--source", self.folder / "sample" / "shards", "--set", "clusters.k=8"]
        else:
            encoder = self.real.resolve() / "encoder"
            sets = REAL | {
                "encoder.model": "MobileNetV1-coral",
                "encoder.config": str(encoder / "MobileNetV1-coral.json"),
                "encoder.pretrained": str(encoder / "mobilenetv1_coral_openclip.pt"),
            }
            self.arguments += ["--source", self.real.resolve() / "shards"]
            self.arguments += [word for n, value in sets.items() for word in ("--set", f"{n}={value}")]

    def output(self, name: str) -> Path:
        """Where the jobs of a part write."""
        return self.folder / "output" / name.replace(" ", "-")

    def run(self, parts: list[str]) -> int:
        """One host, then the parts; returns the exit code."""
        self.curate("one host", "-l", "select=1:ncpus=1")
        for name, part in PARTS.items():
            if name in parts:
                print(f"part {name}, {time.strftime('%H:%M:%S')}", file=sys.stderr)
                try:
                    part(self)
                except (RuntimeError, TimeoutError, AssertionError) as error:
                    self.problems.append(f"{name}: {error}")
                    self.clear()
        self._judge()
        self._print()
        return 1 if self.problems else 0

    def clear(self) -> None:
        """Ends all jobs."""
        for desk in (self.desk, self.bare):
            desk.clear()

    def curate(self, name: str, *options: str, kill: bool = False, **variables: object) -> None:
        """A job that completes; `kill`: the second host loses its power once it has embedded a shard."""
        output, started = self.output(name), time.monotonic()
        job = self.desk.curate(*options, arguments=[*self.arguments, "--output", output], **variables)
        if kill:
            until(lambda: TWO in self.embedded(output), self.desk.printed(job))
            log = next((self.desk.home / ".made" / "clusters").glob(f"*/logs/{TWO}.log")).read_text()
            self.hosts[TWO].cut_the_power()
            for folder in re.findall(r"/tmp/made-\w+", log):  # its disk; here it has this machine's /tmp
                shutil.rmtree(folder, ignore_errors=True)
            print(f"{TWO} lost its power", file=sys.stderr)
            self.notices(job)
        self.completes(name, self.desk, job)
        self.record(name, output, started)

    def notices(self, job: str) -> None:
        """Prints how long the run waits for the answer of a task on the host that lost its power."""
        cut, printed = time.monotonic(), self.desk.printed(job)
        until(lambda: "task lost" in printed.read_text() or self.desk.job(job).state == FINISHED)
        print(f"after {time.monotonic() - cut:.1f} s the run noticed it", file=sys.stderr)

    def completes(self, name: str, desk: Desk, job: str) -> None:
        """Waits until the job has ended. Raises RuntimeError if it failed."""
        if status := desk.wait(job):
            raise RuntimeError(f"{name}: exit status {status}\n{desk.printed(job).read_text()}")

    def record(self, name: str, output: Path, started: float, url: str = "") -> None:
        """A row of the table for a run that has completed."""
        run, url = checks.summary(output)["run"], url or self.url
        images = dict(samples_by_host(url, run, "embed"))
        self.rows[name] = Row(round(time.monotonic() - started, 1), images, events(url, run)["embed"])

    def cut(
        self, name: str, desk: Desk, url: Callable[[], str], end: Callable[[str], None], nodes: int = 2
    ) -> float:
        """Two jobs on `nodes` each, of which `end` ends the first in mid-run; returns when the first began.

        `url` is the ledger's.
        """
        output, started, select = self.output(name), time.monotonic(), f"select={nodes}:ncpus=1"
        arguments = [*self.arguments, "--output", output]
        job = desk.curate("-l", select, "-l", "walltime=1:00:00", arguments=arguments)
        until(lambda: self.embedded(output, url()), desk.printed(job))
        done = sum(samples_by_host(url(), self.run_of(output, url()), "embed").values())
        end(job)
        if (output / "summary.json").exists():
            self.problems.append(f"{name}: it had completed before")
        until(lambda: not desk.left(), seconds=60)
        print(f"{name}: at least {done} images were embedded before", file=sys.stderr)
        self.completes(name, desk, desk.curate("-l", select, arguments=arguments))
        return started

    def at_the_walltime(self, job: str) -> None:
        """The walltime of the job is over."""
        self.desk.set_walltime(job, 1)
        if (status := self.desk.wait(job)) != OVER:
            self.problems.append(f"job {job}: exit status {status} at the walltime")

    def embedded(self, output: Path, url: str = "") -> set[str]:
        """The hosts that have embedded images."""
        if not (url := url or self.url):
            return set()
        run = self.run_of(output, url)
        return set(samples_by_host(url, run, "embed")) if run else set()

    def run_of(self, output: Path, url: str) -> str:
        """The run of an output; empty if none has begun."""
        with closing(Ledger.open(url)) as ledger:
            run = ledger.runs.of_output(str(output))
        return "" if run is None else run.id

    def _judge(self) -> None:
        decisions = {name: checks.decisions(self.output(name)) for name in self.rows}
        shards = self.rows["one host"].claims
        for name, row in self.rows.items():
            row.equal = decisions[name] == decisions["one host"]
            if not row.equal:
                self.problems.append(f"{name}: other decisions than on one host")
            if name != "one host" and set(row.images) != {ONE, TWO}:
                self.problems.append(f"{name}: only {row.images} embedded")
            if row.claims > shards + 2:  # where a job was cut, each host was embedding a shard
                self.problems.append(f"{name}: {row.claims} claims of {shards} shards")
        if KILLED in self.rows and "two hosts" in self.rows:
            killed = self.rows[KILLED]
            killed.lost = round(killed.seconds - self.rows["two hosts"].seconds, 1)
        for desk in (self.desk, self.bare):
            try:
                until(lambda desk=desk: not desk.left(), seconds=60)  # type: ignore[misc]
            except TimeoutError:
                self.problems.append(f"left: {desk.left()}")

    def _print(self) -> None:
        table = Table(title="two hosts")
        for column in ("job", "seconds", "images by host", "shards claimed", "decisions", "seconds lost"):
            table.add_column(column)
        for name, row in self.rows.items():
            images = ", ".join(f"{host} {n:,}" for host, n in row.images.items())
            lost = "" if row.lost is None else f"{row.lost:g}"
            equal = "equal" if row.equal else "DIFFER"
            table.add_row(name, f"{row.seconds:g}", images, str(row.claims), equal, lost)
        Console().print(table)
        for problem in self.problems:
            print(problem)
        rows = {name: asdict(row) for name, row in self.rows.items()}
        print(json.dumps({"jobs": rows, "problems": self.problems, "passed": not self.problems}))


def _cut(trial: Trial) -> None:
    name = "cut by the walltime"
    started = trial.cut(name, trial.desk, lambda: trial.url, trial.at_the_walltime)
    trial.record(name, trial.output(name), started)


def _ssh(trial: Trial) -> None:
    for machine in trial.hosts.values():
        wait_for_sshd(machine)
    path = f"{trial.folder}/bin:/usr/bin:/bin"
    trial.curate("two hosts by ssh", *ON_TWO, MADE_REACH="ssh", PATH=path)


ON_TWO = ("-l", "select=2:ncpus=1")
PARTS: dict[str, Callable[[Trial], None]] = {
    "two": lambda trial: trial.curate("two hosts", *ON_TWO),
    "at-once": forms.at_once,
    "shell": forms.shell,
    "servers": forms.own_servers,
    "local": forms.local_servers,
    "moved": forms.moved,
    "cut": _cut,
    "ssh": _ssh,
    "killed": lambda trial: trial.curate(KILLED, *ON_TWO, kill=True),  # the last: its host stays off
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
