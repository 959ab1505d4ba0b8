"""The total order in which samples are walked: who comes first stays. Ties go by uid, then gid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core.catalog import Uids, hashes
from made_core.recipe import Dedup

Values = npt.NDArray[Any]  # (n,) numbers; the lowest comes first


def columns(dedup: Dedup) -> tuple[str, ...]:
    """The metadata columns that the keep rule reads."""
    return {"largest": ("width", "height"), "column": ("json",)}.get(dedup.keep, ())


def of_metadata(dedup: Dedup, fields: Mapping[str, Sequence[Any]], n: int) -> npt.NDArray[np.float64]:
    """(n,) values of `largest` and `column`, from a shard's metadata columns; 0 for other rules.

    A sample whose json lacks the column, or holds no number there, comes last.
    """
    if dedup.keep == "largest":
        width, height = (np.array([v or 0 for v in fields[c]], float) for c in ("width", "height"))
        pixels: npt.NDArray[np.float64] = width * height
        return -pixels
    if dedup.keep == "column":
        sign = -1.0 if dedup.keep_prefer == "max" else 1.0
        name = str(dedup.keep_column)
        return np.array([sign * _number(text, name) for text in fields["json"]], float)
    return np.zeros(n)


def _number(text: str | None, name: str) -> float:
    value = json.loads(text).get(name) if text else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # an integer of hundreds of digits
            return float(value)
    return float("nan")  # sorts last, whatever the sign


def of_distance(dedup: Dedup, distance: npt.NDArray[np.float64], uids: Uids) -> Values | None:
    """(n,) values of `hard` (farthest from the centroid first), `easy` and `random`; else None."""
    if dedup.keep == "hard":
        return -distance
    if dedup.keep == "easy":
        return distance
    if dedup.keep == "random":
        return hashes(uids, dedup.seed)
    return None


def ranks(values: Values, uids: Uids) -> npt.NDArray[np.int64]:
    """(n,) each sample's place in the order of (value, uid, gid), 0 first."""
    n = len(uids)
    order = np.lexsort((np.arange(n), uids, values))
    result = np.empty(n, np.int64)
    result[order] = np.arange(n)
    return result
