"""Checks that kills do not change the output of a run: python -m tests.chaos --kills 100 --seed 0

Curates a planted sample once undisturbed, then repeatedly in new folders while a seeded killer runs, until
all kills are carried out. Prints what was killed where, what was recomputed, and one JSON line; exits 0
only if every output equals the undisturbed one byte for byte, a worker was killed at every point of every
stage (given enough kills), and no flow failed without a kill.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from made_core.sample.write import write_sample
from tests.chaos.cluster import Cluster, Database, Disk, Prefect, environment, wait_for
from tests.chaos.driver import Driver
from tests.chaos.ledger import Story
from tests.chaos.plan import ANY, FIRST, KINDS, POINTS, ROUND, Kill, deal, plan
from tests.chaos.rounds import Failed, Round, Stand
from tests.support import checks

SAMPLES, SHARDS = 240, 6
RECIPE: dict[str, Any] = {
    "clusters": {"k": 16, "probes": 2},
    "audit": {"queries": 100},
    "writing": {"samples_per_shard": 30},
    "work": {"shards_per_task": 2, "lease_seconds": 3, "attempts": 100, "max_failed_share": 0},
}
ALL = 100  # kills with which a plan covers every point
SPARE_ROUNDS = 3  # beyond those of the plan, for kills that found no target


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=ALL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=2, help="of Ray, with a worker each")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process is left
    start = time.monotonic()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="made-chaos-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stand = raise_stand(folder, stack, args.nodes)
        if stand.disk.trouble:
            print(f"no kill of kind disk: {stand.disk.trouble}")
        kinds = tuple(kind for kind in KINDS if kind != "disk" or not stand.disk.trouble)
        write_sample(folder / "sample", samples=SAMPLES, shards=SHARDS, seed=args.seed, image_size=64)
        chaos = Chaos(stand, folder / "sample" / "shards", args.seed)
        try:
            chaos.run(plan(args.kills, args.seed, kinds))
        except (Failed, AssertionError, TimeoutError) as error:
            print(f"FAILED: {error}", flush=True)
            chaos.errors.append(str(error).splitlines()[0])
    return chaos.report(args.kills, round(time.monotonic() - start, 1))


def raise_stand(folder: Path, stack: ExitStack, nodes: int) -> Stand:
    """Starts all parts."""
    database, disk = Database(folder / "home", stack), Disk(folder / "disk", stack)
    prefect = Prefect(folder)
    stack.callback(prefect.server.kill)
    prefect.start()
    shared = environment(folder, disk.path / "scratch", database.url, prefect.url)
    cluster = Cluster(folder, shared, nodes)
    stack.callback(cluster.stop)
    cluster.start()
    driver = Driver(folder, cluster.environment, cluster.address)
    stack.callback(driver.stop)
    wait_for(prefect.answers, 120, "Prefect's server")
    return Stand(folder, database, cluster, driver, disk)


class Chaos:
    """The rounds and their results."""

    def __init__(self, stand: Stand, source: Path, seed: int) -> None:
        self._stand, self._source = stand, source
        self._dice = random.Random(seed)
        self._tars = {tar.stem: tar for tar in sorted(source.glob("*.tar"))}
        self.rounds: list[Round] = []
        self.stories: list[Story] = []
        self.equal = 0
        self.errors: list[str] = []

    def run(self, waiting: list[Kill]) -> None:
        """An undisturbed run, then rounds until every kill is carried out. Raises Failed."""
        expected = self._round([])
        most = SPARE_ROUNDS + len(waiting)
        while waiting and len(self.rounds) <= most:
            found = self._round(deal(waiting, len(FIRST) if len(self.rounds) == 1 else ROUND))
            waiting += self.rounds[-1].left()
            differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            if differing:
                raise Failed(
                    f"round {len(self.rounds) - 1}: the output differs from the undisturbed one: {differing}"
                )
            self.equal += 1

    def _round(self, kills: list[Kill]) -> dict[str, bytes | None]:
        number = len(self.rounds)
        place = self._stand.disk.path / f"round-{number}"
        output = place / "output"
        recipe = {
            **RECIPE,
            "sources": [str(self._source)],
            "output": str(output),
            "store": str(place / "store"),
        }
        self.rounds.append(Round(self._stand, number, recipe, kills, self._dice))
        self.rounds[-1].run()
        self.stories.append(Story(self._stand.database.direct, str(output)))
        assert checks.summary(output)["state"] == "completed"
        checks.accounts_balance(output, self._tars)
        checks.bytes_equal(output, self._tars)
        checks.keep_lists(output)
        found = outcome(output)
        shutil.rmtree(place)
        return found

    def report(self, kills: int, seconds: float) -> int:
        """Prints the figures; returns the exit code."""
        struck = [kill for round_ in self.rounds for kill in round_.struck]
        by_kind = Counter(kill.kind for kill in struck)
        points = {kill.point for kill in struck if kill.kind == "worker"} - {ANY}
        whens = list(dict.fromkeys(when for _, when in (*POINTS, ANY)))
        print(f"\n{'kills':10}" + "".join(f"{when:>15}" for when in whens))
        for stage in dict.fromkeys(stage for stage, _ in (*POINTS, ANY)):
            counts = Counter(kill.when for kill in struck if kill.stage == stage)
            print(f"{stage:10}" + "".join(f"{counts[when] or '':>15}" for when in whens))
        print("by kind: " + ", ".join(f"{kind} {by_kind[kind]}" for kind in KINDS))
        events: Counter[str] = Counter()
        print(f"\n{'units':10}{'claimed':>9}{'lost':>6}{'retry':>7}{'done':>6}")
        for stage in dict.fromkeys(stage for story in self.stories[1:] for stage in story.summary()):
            total = sum((story.kinds(stage) for story in self.stories[1:]), Counter[str]())
            events += total
            print(f"{stage:10}{total['claimed']:>9}{total['lost']:>6}{total['retry']:>7}{total['done']:>6}")
        twice = sum(story.twice_done() for story in self.stories[1:])
        cost = len(self.stories) > 1 and self.stories[1].one_embed_again()
        claims = self.stories[1].claims("embed") if len(self.stories) > 1 else []
        print(f"units done more than once: {twice}")
        for error, count in sum((s.errors for s in self.stories), Counter[str]()).most_common(8):
            print(f"  retried {count} times: {error}")
        if claims:
            print(f"a worker killed in mid-shard: the shards were begun {claims} times")
        passed = (
            not self.errors and len(struck) >= kills and self.equal == len(self.rounds) - 1 and cost
            and (kills < ALL or len(points) == len(POINTS))
        )  # fmt: skip
        figures = {
            "benchmark": "chaos", "kills": len(struck), "by_kind": by_kind,
            "by_point": Counter(f"{kill.stage} {kill.when}" for kill in struck),
            "points_met_by_a_workers_death": len(points), "points": len(POINTS),
            "rounds": len(self.rounds) - 1, "equal": self.equal,
            "seconds": seconds, "seconds_by_round": [round(r.seconds, 1) for r in self.rounds],
            "events": events, "done_more_than_once": twice, "one_shard_again": cost,
            "embed_claims": claims,
            "flows_started": sum(len(r.ends) + 1 for r in self.rounds), "errors": self.errors,
            "passed": passed,
        }  # fmt: skip
        print(json.dumps(figures))
        return 0 if passed else 1


def outcome(output: Path) -> dict[str, bytes | None]:
    """Every file of an output; without the content of files that describe the run itself."""
    own = {"summary.json", "report.html", "run.json"}
    return {
        str(path.relative_to(output)): None if path.name in own else path.read_bytes()
        for path in output.rglob("*")
        if path.is_file()
    }


if __name__ == "__main__":
    sys.exit(main())
