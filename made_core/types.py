"""What crosses between rooms: frozen dataclasses and enums, a comment per field."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class UnitState(str, Enum):
    """Where a unit of work stands."""

    OPEN = "open"  # to be done, or to be done again
    RUNNING = "running"  # a worker holds a lease on it
    DONE = "done"  # its files are whole and the pointer stands
    FAILED = "failed"  # for good: a permanent error, or its attempts are used up


class RunState(str, Enum):
    """Where a run stands."""

    RUNNING = "running"  # a process drives it, or did until it died
    COMPLETED = "completed"  # every shard is accounted for
    COMPLETED_WITH_FAILURES = "completed_with_failures"  # some shards failed
    FAILED = "failed"  # stopped by an error


@dataclass(frozen=True)
class Shard:
    """An admitted input shard."""

    id: str  # its name; where names collide, with a short fingerprint behind
    url: str  # where the tar lies
    fingerprint: str  # 32 hex digits of (size, stats, head, tail)
    size: int  # bytes
    expected: int | None  # samples, by its stats; None without stats


@dataclass(frozen=True)
class FileRef:
    """A pointer to an immutable file."""

    path: str  # URL or absolute path
    size: int  # bytes
    digest: str  # 32 hex digits, blake2b-128 of the content
    blocks: str  # crc32 of each files.BLOCK bytes, 8 hex digits each: parts are checked by themselves


@dataclass(frozen=True)
class Unit:
    """A claimed unit of work; only the holder of `token` can finish it."""

    id: int
    stage: str  # its name
    scope: str  # digest of everything that the stage's result depends on
    key: str  # which part of the stage
    attempt: int  # 1 for the first
    token: str  # fences the lease

    @property
    def name(self) -> str:
        """A file stem that no other attempt has."""
        return f"{self.key}.{self.attempt}-{self.token[:6]}"


@dataclass(frozen=True)
class Encoding:
    """An encoder as resolved for one run: recorded, and the key of its embeddings."""

    key: str  # 16 hex digits over weights, preprocessing, device, precision and batch size
    model: str
    dim: int  # length of a row
    image_size: int  # pixels
    device: str  # "cpu" or "cuda"
    precision: str  # "fp32", "bf16" or "fp16"
    batch_size: int  # images
    default_eps: float  # this encoder's
    eps: float  # the recipe's eps, or the default
    eps_is_default: bool


@dataclass(frozen=True)
class Account:
    """samples = kept + dropped + unreadable, at every level."""

    samples: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> count, by code, without unreadable
    unreadable: int = 0

    def __post_init__(self) -> None:
        if self.samples != self.kept + sum(self.dropped.values()) + self.unreadable:
            raise ValueError(f"the account does not balance: {self}")
