"""Errors. Each class's docstring is the head of its message; `Transient` asks for a retry."""

from __future__ import annotations


class MadeError(Exception):
    """made cannot go on"""

    def __init__(self, detail: str = "") -> None:
        head = (type(self).__doc__ or "").strip()
        super().__init__(f"{head}: {detail}" if detail else head)
        self.detail = detail

    def __reduce__(self) -> tuple[type[MadeError], tuple[str]]:
        # Exceptions travel between Ray workers by pickle: rebuild from the detail, not the message.
        return (type(self), (self.detail,))


class Permanent(MadeError):
    """doing it again would not help"""


class Transient(MadeError):
    """it may work when done again"""


class UserError(Permanent):
    """a user's mistake"""


class RecipeError(UserError):
    """the recipe does not fit"""


class SourceError(UserError):
    """the source does not fit"""


class EncoderError(UserError):
    """the encoder does not fit"""


class OutputError(UserError):
    """the output folder does not fit"""


class DatabaseError(UserError):
    """the database does not fit"""


class OutdatedRun(UserError):
    """the results are of another version of made"""


class CorruptShard(Permanent):
    """the shard cannot be read as a whole tar"""


class ChangedInput(Permanent):
    """the input is not what was embedded"""


class DamagedFile(Permanent):
    """a stored file is not what was written"""


class TooManyFailures(Permanent):
    """too many shards failed"""


class StorageFailed(Transient):
    """storage did not answer"""


class WorkerLost(Transient):
    """the worker was lost"""


class LeaseLost(Transient):
    """another worker holds this unit now"""


class BadImage(Permanent):
    """the image cannot be read"""
