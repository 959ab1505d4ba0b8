"""Filters: sample -> keep, or drop with a Reason. Bounds as DataComp's baselines define them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from made_core.recipe import Filters
from made_core.types import Reason

REASONS = tuple(Reason)
KEPT = -1  # a sample without a reason
Codes = npt.NDArray[np.int8]  # an index into REASONS, or KEPT

COLUMNS = ("error", "width", "height", "caption")


def code(reason: Reason) -> int:
    """A reason's number in `Codes`."""
    return REASONS.index(reason)


def apply(table: pa.Table, filters: Filters) -> Codes:
    """(n,) the first filter that each sample of the metadata (`COLUMNS`) fails, KEPT without one.

    A sample without caption has 0 words and 0 characters. Words are parted by white space.
    """
    n = len(table)
    result = np.full(n, KEPT, np.int8)

    def drop(failed: npt.NDArray[np.bool_], reason: Reason) -> None:
        result[failed & (result == KEPT)] = code(reason)

    drop(~pc.is_null(table["error"]).to_numpy(zero_copy_only=False), Reason.UNREADABLE)
    width, height = (_numbers(table[c]) for c in ("width", "height"))
    short, long = np.minimum(width, height), np.maximum(width, height)
    if filters.min_side is not None:
        drop(short < filters.min_side, Reason.SMALL_SIDE)
    if filters.max_aspect is not None:
        drop(long > filters.max_aspect * short, Reason.ASPECT_RATIO)
    if filters.min_words is not None or filters.min_chars is not None:
        captions = [c or "" for c in table["caption"].to_pylist()]
        if filters.min_words is not None:
            words = np.array([len(c.split()) for c in captions])
            drop(words < filters.min_words, Reason.FEW_WORDS)
        if filters.min_chars is not None:
            chars = np.array([len(c) for c in captions])
            drop(chars < filters.min_chars, Reason.FEW_CHARS)
    return result


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    filled: npt.NDArray[np.int64] = pc.fill_null(column, 0).to_numpy().astype(np.int64)
    return filled
