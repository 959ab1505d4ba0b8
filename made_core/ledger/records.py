"""Results of ledger queries: frozen dataclasses built from rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic

from pydantic import ValidationError
from sqlalchemy import Row

from made_core.errors import OutdatedRun
from made_core.stages import OutputRow, OutputT, Stage, from_row
from made_core.types import FileRef, RunState, UnitState

REMEDY = "run it again with the same recipe: results of an earlier version of made are recomputed"


@dataclass(frozen=True)
class Result(Generic[OutputT]):
    """The state and result of a unit."""

    key: str
    state: UnitState
    output: OutputT | None  # of a done unit
    error: str | None  # of the last attempt that failed
    attempts: int
    seconds: float | None  # duration of the last attempt, once it ended

    @classmethod
    def of(cls, stage: Stage[OutputT], scope: str, row: Row[Any]) -> Result[OutputT]:
        """From columns of `unit`. Raises OutdatedRun if another version of made wrote the output."""
        state = UnitState(row.state)
        output = _output(stage, scope, row) if state is UnitState.DONE else None
        return cls(row.key, state, output, row.error, row.attempts, row.seconds)


def _output(stage: Stage[OutputT], scope: str, row: Row[Any]) -> OutputT:
    if isinstance(row.files, dict):  # until schema 0003: a list
        try:
            return from_row(stage.output, OutputRow(row.samples, row.files, row.counts))
        except ValidationError:
            pass
    raise OutdatedRun(
        f"stage {stage.name}, scope {scope}, unit {row.key}: its output is not a {stage.output.__name__} as "
        f"version {stage.version} of the stage writes it; {REMEDY}"
    )


@dataclass(frozen=True)
class Tally:
    """The number of units by state, and of samples."""

    units: dict[UnitState, int]  # has every state
    samples: int  # of done units, and those that running units report so far

    @classmethod
    def of(cls, row: Row[Any]) -> Tally:
        """From columns that are named like the states."""
        units = {state: getattr(row, state.value) or 0 for state in UnitState}
        return cls(units, int(row.samples or 0))

    @property
    def total(self) -> int:
        """Number of units in all states."""
        return sum(self.units.values())


@dataclass(frozen=True)
class Run:
    """A run as recorded."""

    id: str
    recipe_digest: str  # Recipe.recipe_digest
    recipe: dict[str, Any]
    output: str
    store: str
    state: RunState
    holder: str | None  # the process that drives it, as host:pid/place-token
    lease_until: datetime | None
    held: bool  # the lease has not expired
    replaced: bool  # its output belongs to a later run
    created_at: datetime
    updated_at: datetime
    summary: dict[str, Any] | None
    error: str | None
    corpus: FileRef | None  # table of its shards; None: nothing was embedded yet

    @classmethod
    def of(cls, row: Row[Any]) -> Run:
        """From the columns of `run`, and `held`."""
        corpus = FileRef(**row.corpus) if row.corpus else None
        return cls(**{**row._asdict(), "state": RunState(row.state), "corpus": corpus})


@dataclass(frozen=True)
class RunScope:
    """A scope that a run uses."""

    run_id: str
    scope: str


@dataclass(frozen=True)
class StageStatus:
    """The progress of a stage of a run."""

    stage: str
    version: int  # of the stage when the run started it; 0: before stages had versions
    scope: str
    planned: int  # number of the run's units
    tally: Tally
    started_at: datetime | None  # earliest start of a unit's last attempt
    finished_at: datetime | None  # latest finish
    rate: float | None  # samples per second: recently if units run, else of the units that the run computed
    eta: float | None  # seconds until all units have ended; None if no units run or none is done

    @classmethod
    def of(cls, row: Row[Any]) -> StageStatus:
        """From columns of `stage`, a tally, and the recent work of its units."""
        tally = Tally.of(row)
        running = tally.units[UnitState.RUNNING] > 0
        if running:
            samples, seconds = float(row.recent_samples), row.recent_seconds
        else:
            samples, seconds = float(row.own_samples or 0), row.own_seconds
        rate = samples / seconds if seconds and samples else None
        eta = _eta(row, tally, rate) if running else None
        return cls(row.stage, row.version, row.scope, row.units, tally, row.first, row.last, rate, eta)


@dataclass(frozen=True)
class UnitStatus:
    """The progress of a unit, for display."""

    stage: str
    scope: str
    key: str
    shard: str | None  # id of the input shard, if the key is a shard's fingerprint
    state: UnitState
    attempts: int
    samples: int
    host: str | None
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None  # duration of the last attempt, so far if it runs
    error: str | None
    traceback: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> UnitStatus:
        """From columns of `unit`, `shard` and `seconds`."""
        return cls(**{**row._asdict(), "state": UnitState(row.state)})


@dataclass(frozen=True)
class Event:
    """A change of a unit's state."""

    at: datetime
    host: str | None
    attempt: int
    kind: str  # claimed, lost, done, retry, failed, reopened
    error: str | None
    traceback: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> Event:
        """From columns of `event`."""
        return cls(**row._asdict())


def _eta(row: Row[Any], tally: Tally, rate: float | None) -> float | None:
    """By samples, assuming that remaining units are as large as done ones; by units if these have none."""
    left = tally.units[UnitState.OPEN] + tally.units[UnitState.RUNNING]
    done = tally.units[UnitState.DONE]
    if done and row.done_samples:
        running = tally.samples - row.done_samples
        return max(0.0, left * row.done_samples / done - running) / rate if rate else None
    return left * row.recent_seconds / row.recent_done if row.recent_done else None
