"""Errors. A class's `head`, if any, starts its messages; `Transient` errors are retried."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

# Names who can: `made trigger` and the front door cannot.
TAKE_OVER = "name another output, or take it over: `made curate --replace`, in Prefect the parameter replace"


class MadeError(Exception):
    """made cannot continue."""

    head: ClassVar[str] = ""  # text before the detail, without a colon

    def __init__(self, detail: str = "") -> None:
        super().__init__(": ".join(part for part in (self.head, detail) if part))
        self.detail = detail

    def __reduce__(self) -> tuple[type[MadeError], tuple[str]]:
        # Exceptions travel between Ray workers by pickle: rebuild from the detail, not the message.
        return (type(self), (self.detail,))


class Permanent(MadeError):
    """A retry would fail too."""


class Transient(MadeError):
    """A retry may succeed."""


class UserError(Permanent):
    """The request cannot be carried out; the message says what to change."""


class RecipeError(UserError):
    """The recipe is not valid."""

    head = "recipe"


class SourceError(UserError):
    """A source is missing, unfinished or holds no shards."""

    head = "source"


class EncoderError(UserError):
    """The encoder does not exist or cannot be loaded on this machine."""


class OutputError(UserError):
    """The output or the store cannot be written, or the output belongs to another run."""


class OutputHeld(OutputError):
    """Another process is writing the output."""


class PathError(UserError):
    """A path or URL cannot be used: no permission, unknown protocol, missing library or credentials."""


class RayAddressError(UserError):
    """The Ray head cannot be used."""


class PlanError(UserError):
    """No node of the cluster can run a task of the size that the recipe asks for."""


class DatabaseError(UserError):
    """The database cannot be used."""


class OutdatedRun(UserError):
    """The results were written by another version of made."""


class CorruptShard(Permanent):
    """A tar cannot be read completely."""

    head = "the shard is not a complete tar"


class ChangedInput(Permanent):
    """The input has changed since it was embedded."""

    head = "the input has changed since it was embedded"


class DamagedFile(Permanent):
    """A stored file differs from what was written."""

    head = "a stored file is missing or damaged"


class TooManyFailures(Permanent):
    """More shards failed than the recipe allows."""

    head = "too many shards failed"


class StorageFailed(Transient):
    """The storage or the database failed or did not answer in time."""

    head = "storage failed"


class WorkerLost(Transient):
    """A worker died."""

    head = "the worker was lost"


class BatchError(Transient):
    """The batch system refused a request, or did not answer."""


class LeaseLost(Transient):
    """Another worker or process now holds the unit or run."""

    head = "another process took over"


class BadImage(Permanent):
    """An image cannot be read."""

    head = "the image cannot be read"  # stored in decisions: changing it changes outputs


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a document: where it is, unless that is all of it, and what."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
