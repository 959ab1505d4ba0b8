"""Two hosts in network namespaces: `python -m tests.pbs [--real FOLDER] [--short]`.

Jobs of the PBS stand-ins curate the same input on one host, on two, on two reached by ssh, and on two of
which one loses its power in mid-run. Their decisions must be equal, both hosts must have done their part, and
nothing may be left. Prints a table, then one JSON line; exits 0 only if all of this holds. `--short`: without
ssh and power cut. Needs root, and iproute2, openssh-server and openssh-client.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from tests.support import checks
from tests.support.pbs.desk import Desk, samples_by_host, until
from tests.support.pbs.hosts import NET, Machine, machines, trouble, wait_for_sshd
from tests.support.pbs.site import Host, Site
from tests.support.runs import MADE, events

ONE, TWO = "made-n1", "made-n2"
REAL = {"clusters.k": "16", "dedup.eps_max": "0.3"}


def main(arguments: list[str]) -> int:
    """Runs and checks; returns 0 if all goals hold."""
    parser = ArgumentParser(prog="python -m tests.pbs", description=__doc__)
    parser.add_argument(
        "--real", type=Path, help="folder with shards/ and encoder/; default: a synthetic sample"
    )
    parser.add_argument("--short", action="store_true", help="one host and two hosts only")
    given = parser.parse_args(arguments)
    if (why := trouble()) is not None:
        print(f"two hosts: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="made-hosts-") as name:
        folder = Path(name)
        with machines((ONE, TWO), folder) as hosts, service(folder) as variables:
            return Trial(folder, hosts, variables, given.real).run(given.short)


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


class Trial:
    """The jobs, and what is known of them."""

    def __init__(
        self, folder: Path, hosts: dict[str, Machine], variables: dict[str, str], real: Path | None
    ) -> None:
        self._hosts, self._url = hosts, variables["MADE_DATABASE_URL"]
        site = Site(
            folder / "pbs", tuple(Host(name, 2, enter=machine.enter) for name, machine in hosts.items())
        )
        wanted = {n: v for n, v in variables.items() if n in ("MADE_DATABASE_URL", "PREFECT_API_URL")}
        secret = {n: v for n, v in variables.items() if n == "PREFECT_API_AUTH_STRING"}
        self.desk = Desk(site, folder, wanted | secret | {"MADE_RAY_DASHBOARD": "0"})
        self._arguments: list[object] = ["--set", "work.shards_per_task=1", "--set", "work.lease_seconds=10"]
        if real is None:
            write_sample(folder / "sample", samples=1200, shards=12, seed=3)
            self._arguments += ["--source", folder / "sample" / "shards", "--set", "clusters.k=8"]
        else:
            encoder = real.resolve() / "encoder"
            sets = REAL | {
                "encoder.model": "MobileNetV1-coral",
                "encoder.config": str(encoder / "MobileNetV1-coral.json"),
                "encoder.pretrained": str(encoder / "mobilenetv1_coral_openclip.pt"),
            }
            self._arguments += ["--source", real.resolve() / "shards"]
            self._arguments += [word for n, value in sets.items() for word in ("--set", f"{n}={value}")]
        self._rows: dict[str, Row] = {}

    def run(self, short: bool) -> int:
        """All jobs, each with a store of its own; returns the exit code."""
        problems = []
        self._curate("one host", "-l", "select=1:ncpus=1")
        self._curate("two hosts", "-l", "select=2:ncpus=1")
        if not short:
            for machine in self._hosts.values():
                wait_for_sshd(machine)
            ssh = f"{self.desk.work.parent}/bin:/usr/bin:/bin"
            self._curate("two hosts by ssh", "-l", "select=2:ncpus=1", MADE_REACH="ssh", PATH=ssh)
            self._curate("one of them killed", "-l", "select=2:ncpus=1", kill=True)
        decisions = {name: checks.decisions(self.desk.work / name) for name in self._rows}
        for name, row in self._rows.items():
            row.equal = decisions[name] == decisions["one host"]
            if not row.equal:
                problems.append(f"{name}: other decisions than on one host")
            if name.startswith("two hosts") and set(row.images) != {ONE, TWO}:
                problems.append(f"{name}: only {row.images} embedded")
        if not short:
            killed = self._rows["one of them killed"]
            killed.lost = round(killed.seconds - self._rows["two hosts"].seconds, 1)
        try:
            until(lambda: not self.desk.left(), seconds=60)
        except TimeoutError:
            problems.append(f"left: {self.desk.left()}")
        self._print(problems)
        return 1 if problems else 0

    def _curate(self, name: str, *options: str, kill: bool = False, **variables: object) -> None:
        output = self.desk.work / name
        started = time.monotonic()
        job = self.desk.curate(*options, arguments=[*self._arguments, "--output", output], **variables)
        if kill:
            until(lambda: TWO in self._embedded(output), self.desk.printed(job))
            self._hosts[TWO].cut_the_power()
            print(f"{TWO} lost its power", file=sys.stderr)
        status = self.desk.wait(job)
        if status:
            raise SystemExit(f"{name}: exit status {status}\n{self.desk.printed(job).read_text()}")
        run = checks.summary(output)["run"]
        claims = events(self._url, run)
        images = dict(samples_by_host(self._url, run, "embed"))
        self._rows[name] = Row(round(time.monotonic() - started, 1), images, claims["embed"])

    def _embedded(self, output: Path) -> set[str]:
        with closing(Ledger.open(self._url)) as ledger:
            run = ledger.runs.of_output(str(output))
        return set() if run is None else set(samples_by_host(self._url, run.id, "embed"))

    def _print(self, problems: list[str]) -> None:
        table = Table(title="two hosts")
        for column in ("job", "seconds", "images by host", "shards claimed", "decisions", "seconds lost"):
            table.add_column(column)
        for name, row in self._rows.items():
            images = ", ".join(f"{host} {n:,}" for host, n in row.images.items())
            lost = "" if row.lost is None else f"{row.lost:g}"
            equal = "equal" if row.equal else "DIFFER"
            table.add_row(name, f"{row.seconds:g}", images, str(row.claims), equal, lost)
        Console().print(table)
        for problem in problems:
            print(problem)
        print(
            json.dumps(
                {
                    "jobs": {name: asdict(row) for name, row in self._rows.items()},
                    "problems": problems,
                    "passed": not problems,
                }
            )
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
