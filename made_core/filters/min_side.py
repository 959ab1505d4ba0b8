"""Drops small images."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
from pydantic import Field

from made_core.filters.filter import ORIGINAL_SIDES, Filter, Flags, sides
from made_core.reasons import Reason


def failed(table: pa.Table, bound: int) -> Flags:
    """(n,) whether the shorter original side has fewer than `bound` pixels."""
    short, _ = sides(table)
    return short < bound


FILTER = Filter(
    field="min_side",
    type=Annotated[int, Field(ge=1, le=1_000_000)],
    description="Minimum shorter side of the original image, in pixels.",
    example=200,
    columns=ORIGINAL_SIDES,
    failed=failed,
    reason=Reason(
        5, "small_side", "Small image", "the shorter side of the original image is below filters.min_side"
    ),
)
