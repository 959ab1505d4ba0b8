"""Drops samples with few words in the caption."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from made_core.filters.filter import Filter, Flags, captions
from made_core.reasons import Reason


def failed(table: pa.Table, bound: int) -> Flags:
    """(n,) whether the caption has fewer than `bound` words separated by whitespace; a missing one has 0."""
    return np.array([len(caption.split()) < bound for caption in captions(table)], bool)


FILTER = Filter(
    field="min_words",
    type=Annotated[int, Field(ge=1, le=1_000_000)],
    description="Minimum number of words in the caption.",
    example=3,
    columns=("caption",),
    failed=failed,
    reason=Reason(7, "few_words", "Few words", "the caption has fewer words than filters.min_words"),
)
