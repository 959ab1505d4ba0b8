"""Drops samples whose caption has few words."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from made_core.filters.filter import Filter, Flags, captions
from made_core.reasons import Reason


def failed(table: pa.Table, bound: int) -> Flags:
    """(n,) whether the caption has fewer than `bound` words, separated by white space; none: 0 words."""
    return np.array([len(caption.split()) < bound for caption in captions(table)], bool)


FILTER = Filter(
    field="min_words",
    type=Annotated[int, Field(ge=1)],
    description="Words in the caption, at least.",
    example=3,
    columns=("caption",),
    failed=failed,
    reason=Reason(7, "few_words", "Few words", "the caption has fewer words than filters.min_words"),
)
