"""Drops images with an extreme aspect ratio."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
from pydantic import Field

from made_core.filters.filter import ORIGINAL_SIDES, Filter, Flags, sides
from made_core.reasons import Reason


def failed(table: pa.Table, bound: float) -> Flags:
    """(n,) whether the longer original side is more than `bound` times the shorter side."""
    short, long = sides(table)
    return long > bound * short


FILTER = Filter(
    field="max_aspect",
    type=Annotated[float, Field(ge=1, le=1_000_000)],
    description="Maximum aspect ratio of the original image, long side / short side.",
    example=3.0,
    columns=ORIGINAL_SIDES,
    failed=failed,
    reason=Reason(
        6,
        "aspect_ratio",
        "Extreme shape",
        "long side / short side of the original image is above filters.max_aspect",
    ),
)
