"""Types that packages share: frozen dataclasses and enums, a comment per field."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class UnitState(str, Enum):
    """The state of a unit of work."""

    OPEN = "open"  # waits for its first attempt, or for another one
    RUNNING = "running"  # a worker holds a lease on it
    DONE = "done"  # its files are complete and recorded
    FAILED = "failed"  # a permanent error, or no attempts left


class RunState(str, Enum):
    """The state of a run."""

    RUNNING = "running"  # a process drives it, or drove it until it died
    COMPLETED = "completed"  # every shard is accounted for
    COMPLETED_WITH_FAILURES = "completed_with_failures"  # some shards failed
    FAILED = "failed"  # stopped by an error
    CANCELLED = "cancelled"  # stopped on request; running it again resumes it


@dataclass(frozen=True)
class Shard:
    """An admitted input shard."""

    id: str  # name of the tar; a short fingerprint is appended where names collide
    url: str  # of the tar
    fingerprint: str  # 32 hex digits over size, stats, head and tail
    size: int  # bytes
    expected: int | None  # samples according to its stats; None without stats


@dataclass(frozen=True)
class FileRef:
    """A pointer to an immutable file."""

    path: str  # URL or absolute path
    size: int  # bytes
    digest: str  # 32 hex digits, blake2b-128 of the content
    blocks: str  # crc32 of each block of files.BLOCK bytes, 8 hex digits each: blocks are checked separately


@dataclass(frozen=True)
class Unit:
    """A claimed unit of work; only the holder of `token` can finish it."""

    id: int
    stage: str  # its name
    scope: str  # digest of all that the result depends on, except the key
    key: str  # identifies the unit within the scope
    attempt: int  # 1 for the first
    token: str  # fencing token of the lease

    @property
    def name(self) -> str:
        """A file stem unique to this attempt."""
        return f"{self.key}.{self.attempt}-{self.token[:6]}"


@dataclass(frozen=True)
class Encoding:
    """An encoder as resolved for one run, and the key of its embeddings."""

    key: str  # 16 hex digits over weights, preprocessing, device, precision and batch size
    model: str
    dim: int  # length of a row
    image_size: int  # pixels
    device: str  # "cpu" or "cuda"
    precision: str  # "fp32", "bf16" or "fp16"
    batch_size: int  # images
    default_eps: float  # the encoder's default
    eps: float  # the recipe's eps, or the default
    eps_is_default: bool
    caption_key: str | None = None  # 16 hex digits over the text tower; None: captions are not embedded


@dataclass(frozen=True)
class Account:
    """samples = kept + dropped + unreadable, at every level."""

    samples: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> count, in code order; not unreadable
    unreadable: int = 0

    def __post_init__(self) -> None:
        if self.samples != self.kept + sum(self.dropped.values()) + self.unreadable:
            raise ValueError(f"the account does not balance: {self}")
