"""A round: one run from start to output, while armed kills are carried out and dead parts restarted.

Every wait has a time limit. A flow may end with an error only if it or Ray's head was killed, or if the
database was unreachable at its start; any other error and any hang fails the round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.cluster import Cluster, Database, Disk
from tests.chaos.driver import Driver
from tests.chaos.plan import ANY, Kill
from tests.chaos.processes import lives, strike, tail

TICK = 0.05
OUTAGE = (1.0, 4.0)  # range of seconds that a disk stays full or a database is unreachable
RANDOM = (1.0, 12.0)  # range of seconds between two kills at random times
AWAY = "cannot be reached"  # the flow's error if the database is unreachable at its start
FLOW_ENDS = 60  # seconds within which the flow has to notice the loss of Ray's head
SECONDS, A_KILL = 300, 40  # time limit of a round, and the time that each kill adds


class Failed(Exception):
    """The round failed; the message has the reason and the ends of the logs."""


@dataclass
class Stand:
    """What the rounds share."""

    folder: Path  # holds armed/, struck/, done/, logs
    database: Database
    cluster: Cluster
    driver: Driver
    disk: Disk


@dataclass
class Round:
    """The figures of one round."""

    stand: Stand
    number: int
    recipe: dict[str, Any]
    kills: list[Kill]
    dice: random.Random
    struck: list[Kill] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  # last lines of flows that ended with an error
    seconds: float = 0.0
    _undo: dict[str, tuple[float, Callable[[], None]]] = field(default_factory=dict)
    _excused: bool = False  # an end of the flow because it or the head was killed
    _headless: float | None = None  # since when
    _resume: float = 0.0  # when the flow can be restarted
    _start: float = 0.0

    def run(self) -> None:
        """Runs until the flow succeeds. Raises Failed."""
        for name in ("armed", "struck", "done"):
            folder = self.stand.folder / name
            folder.mkdir(exist_ok=True)
            for file in folder.iterdir():
                file.unlink()
        for kill in self.kills:
            if kill.point != ANY:
                (self.stand.folder / "armed" / kill.name).touch()
        random_kills = [kill for kill in self.kills if kill.point == ANY]
        self._start = start = time.monotonic()
        end = start + SECONDS + A_KILL * len(self.kills)
        due = start + self.dice.uniform(*RANDOM)
        self.stand.driver.start(self.recipe, spare=self._another)
        while not self._finished():
            self._meet()
            if random_kills and time.monotonic() > due:
                struck = self._strike(random_kills[0], self._raylets())
                if struck:
                    self.struck.append(random_kills.pop(0))
                due = time.monotonic() + (self.dice.uniform(*RANDOM) if struck else 1)
            self._tend()
            if time.monotonic() > end:
                raise self._failed(f"no end after {end - start:.0f} s")
            time.sleep(TICK)
        self.seconds = time.monotonic() - start
        self.stand.driver.now = None
        while self._undo or self._headless is not None:
            self._tend()
            time.sleep(TICK)

    @property
    def _another(self) -> bool:
        """Whether the flow is likely to start again: after the undisturbed round, and after some kills."""
        return not self.kills or any(kill.kind in ("flow", "head") for kill in self.left())

    def left(self) -> list[Kill]:
        """The kills that found no target."""
        rest = list(self.kills)
        for kill in self.struck:
            rest.remove(kill)
        return rest

    def _meet(self) -> None:
        """Carries out the kills that workers have reached, or checks that the workers did so themselves."""
        for file in sorted((self.stand.folder / "struck").iterdir()):
            name, pid, raylet = file.name.rsplit(".", 2)
            kill = next(k for k in self.kills if k.name == name)
            if kill.kind == "worker":
                if lives(int(pid)):
                    continue  # only briefly: checked again
                self._say(kill)
                self.struck.append(kill)
            elif self._strike(kill, [int(raylet)]):
                self.struck.append(kill)
            (self.stand.folder / "done" / name).touch()
            file.unlink()

    def _strike(self, kill: Kill, raylets: list[int]) -> bool:
        """Carries out a kill; False if there is no target now. Args: raylets: one of them may be killed."""
        stand, kind, outage = self.stand, kill.kind, self.dice.uniform(*OUTAGE)
        if kind in self._undo or self._headless is not None:
            return False
        if kind in ("disk", "cut"):
            begin, end = {
                "disk": (stand.disk.fill, stand.disk.free),
                "cut": (stand.database.proxy.cut, stand.database.proxy.mend),
            }[kind]
            begin()
            self._later(kind, outage, end)
        else:
            victims = {
                "worker": stand.cluster.busy,
                "raylet": lambda: raylets,
                "head": stand.cluster.gcs,
                "flow": stand.driver.pids,
                "postgres": stand.database.pids,
            }[kind]()
            if not victims:
                return False
            strike(self.dice.choice(victims))
            if kind == "postgres":
                self._later(kind, outage, stand.database.restart)
            elif kind == "head":
                self._headless = time.monotonic()
            self._excused |= kind in ("head", "flow")
        self._say(kill)
        return True

    def _later(self, what: str, seconds: float, undo: Callable[[], None]) -> None:
        self._undo[what] = (time.monotonic() + seconds, undo)

    def _tend(self) -> None:
        """Ends outages and restarts what died."""
        now = time.monotonic()
        if "disk" in self._undo:
            self.stand.disk.fill()  # space that others have freed
        for what in [what for what, (when, _) in self._undo.items() if when < now]:
            self._undo.pop(what)[1]()
        cluster = self.stand.cluster
        if self._headless is not None:
            if self.stand.driver.now is None:  # it noticed and ended
                self._say(f"the flow ended {now - self._headless:.1f} s after the head")
                cluster.stop()
                cluster.start()
                self._headless = None
            elif now - self._headless > FLOW_ENDS:
                raise self._failed(f"the flow still waits, {FLOW_ENDS} s after Ray's head was killed")
            return
        for node in cluster.nodes:
            if node.ended is not None:  # once its raylet has ended
                cluster.start_node(node)

    def _finished(self) -> bool:
        """Whether the flow has succeeded; restarts it if it failed."""
        driver, now = self.stand.driver, time.monotonic()
        if driver.now is None:
            if self._headless is None and now > self._resume:
                driver.start(self.recipe, spare=self._another)
                self._excused = False
            return False
        code = driver.now.ended
        if code == 0:
            return True
        if code is not None:
            last = tail(driver.now.log, 1).strip()
            self._say(f"the flow ended with {code}: {last[:160]}")
            if not self._excused and AWAY not in last:
                raise self._failed("the flow ended, and neither it nor Ray's head was killed")
            self.ends.append(last)
            driver.now = None
            # Its lease may be valid until then, and the ledger would refuse the next process.
            self._resume = now + self.recipe["work"]["lease_seconds"]
        return False

    def _raylets(self) -> list[int]:
        cluster = self.stand.cluster
        return [pid for node in cluster.nodes for pid in cluster.raylets(node)]

    def _say(self, what: object) -> None:
        print(f"  round {self.number}, {time.monotonic() - self._start:5.1f} s: {what}", flush=True)

    def _failed(self, why: str) -> Failed:
        flow = self.stand.driver.now
        parts = [(part, 3) for part in (self.stand.cluster.head, *self.stand.cluster.nodes)]
        logs = [(flow, 30), *parts] if flow is not None else parts
        ends = [f"  {part.log}:\n{tail(part.log, lines)}" for part, lines in logs]
        return Failed("\n".join([f"round {self.number}: {why}", *ends]))
