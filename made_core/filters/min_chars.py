"""Drops samples with a short caption."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from made_core.filters.filter import Filter, Flags, captions
from made_core.reasons import Reason


def failed(table: pa.Table, bound: int) -> Flags:
    """(n,) whether the caption has fewer than `bound` Unicode characters; a missing caption has 0."""
    return np.array([len(caption) < bound for caption in captions(table)], bool)


FILTER = Filter(
    field="min_chars",
    type=Annotated[int, Field(ge=1, le=1_000_000_000)],
    description="Minimum number of characters in the caption.",
    example=6,
    columns=("caption",),
    failed=failed,
    reason=Reason(8, "few_chars", "Short caption", "the caption has fewer characters than filters.min_chars"),
)
