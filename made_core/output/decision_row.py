"""A row of a decision table as a record."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Decision:
    """A row of `decisions/`: the fields of `decision_tables.SCHEMA`."""

    uid: str
    shard: str
    key: str
    row: int
    kept: bool
    reason: str | None
    represented_by: str | None
    similarity: float | None
    cluster: int | None
    error: str | None
    clip_score: float | None
    output_shard: str | None
    output_key: str | None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Decision:
        """From an element of `Table.to_pylist()`. Raises KeyError if a column is missing."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})
