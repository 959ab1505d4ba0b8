"""Errors. A class's `head`, where it has one, begins its messages; `Transient` asks for a retry."""

from __future__ import annotations

from typing import ClassVar


class MadeError(Exception):
    """made cannot continue."""

    head: ClassVar[str] = ""  # what stands before the detail, without a colon

    def __init__(self, detail: str = "") -> None:
        super().__init__(": ".join(part for part in (self.head, detail) if part))
        self.detail = detail

    def __reduce__(self) -> tuple[type[MadeError], tuple[str]]:
        # Exceptions travel between Ray workers by pickle: rebuild from the detail, not the message.
        return (type(self), (self.detail,))


class Permanent(MadeError):
    """Another attempt would not help."""


class Transient(MadeError):
    """Another attempt may work."""


class UserError(Permanent):
    """What was asked for cannot be done as asked: the message says what to change."""


class RecipeError(UserError):
    """The recipe is not valid."""

    head = "recipe"


class SourceError(UserError):
    """A source is missing, unfinished or not made of shards."""

    head = "source"


class EncoderError(UserError):
    """No such encoder, or one that this machine cannot load."""


class OutputError(UserError):
    """The output or the store cannot be written, or the output is another run's."""


class PathError(UserError):
    """A path or URL that cannot be used: no permission, unknown protocol, missing library or credentials."""


class RayAddressError(UserError):
    """The Ray head cannot be used."""


class DatabaseError(UserError):
    """The database cannot be used."""


class OutdatedRun(UserError):
    """the results are of another version of made"""


class CorruptShard(Permanent):
    """A tar that cannot be read as a whole."""

    head = "the shard cannot be read as a whole tar"


class ChangedInput(Permanent):
    """The input differs from what was embedded."""

    head = "the input is not what was embedded"


class DamagedFile(Permanent):
    """A stored file differs from what was written."""

    head = "a stored file is not what was written"


class TooManyFailures(Permanent):
    """More shards failed than the recipe allows."""

    head = "too many shards failed"


class StorageFailed(Transient):
    """The storage or the database failed or did not answer in time."""

    head = "storage failed"


class WorkerLost(Transient):
    """A worker died."""

    head = "the worker was lost"


class LeaseLost(Transient):
    """Another worker or process holds the unit or run now."""

    head = "another worker holds this unit now"


class BadImage(Permanent):
    """An image that cannot be read."""

    head = "the image cannot be read"  # stored in decisions: a change here changes outputs
