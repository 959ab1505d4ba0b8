"""Drops small images."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
from pydantic import Field

from made_core.filters.filter import Filter, Flags, sides
from made_core.reasons import Reason


def failed(table: pa.Table, bound: int) -> Flags:
    """(n,) whether the shorter side has fewer than `bound` pixels."""
    short, _ = sides(table)
    return short < bound


FILTER = Filter(
    field="min_side",
    type=Annotated[int, Field(ge=1, le=1_000_000)],
    description="Minimum length of the shorter side, in pixels.",
    example=200,
    columns=("width", "height"),
    failed=failed,
    reason=Reason(5, "small_side", "Small image", "the shorter side is below filters.min_side"),
)
