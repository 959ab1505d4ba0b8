"""Drops samples whose image and caption do not fit each other."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from made_core.filters.filter import Filter, Flags
from made_core.reasons import Reason


def failed(table: pa.Table, bound: float) -> Flags:
    """(n,) whether the CLIP score is below `bound`; a missing one is."""
    result: Flags = pc.fill_null(pc.less(table["clip_score"], bound), True).to_numpy()
    return result


FILTER = Filter(
    field="min_clip_score",
    type=Annotated[float, Field(ge=-1, le=1)],
    description="Minimum CLIP score; samples without one are dropped.",
    example=0.28,
    columns=("clip_score",),
    failed=failed,
    reason=Reason(9, "low_clip_score", "Low CLIP score", "the CLIP score is below filters.min_clip_score"),
)
