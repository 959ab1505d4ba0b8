"""The total order in which samples are walked: who comes first stays. Ties go by uid, then gid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core.corpus.identity import Uids, hashes
from made_core.recipe import Dedup

Values = npt.NDArray[Any]  # (n,) numbers; the lowest comes first
# DataComp's names of CLIP scores in a sample's json, then LAION's: the first that it has counts.
CLIP_SCORES = ("clip_l14_similarity_score", "clip_b32_similarity_score", "similarity")


def columns(dedup: Dedup) -> tuple[str, ...]:
    """The metadata columns that the keep rule reads."""
    read = {"largest": ("width", "height"), "clip_score": ("json",), "column": ("json",)}
    return read.get(dedup.keep, ())


def of_metadata(dedup: Dedup, fields: Mapping[str, Sequence[Any]], n: int) -> npt.NDArray[np.float64]:
    """(n,) values of the rules that read a shard's metadata columns; 0 for other rules.

    A sample whose json lacks the number that `column` or `clip_score` asks for comes last.
    """
    if dedup.keep == "largest":
        width, height = (np.array([v or 0 for v in fields[c]], float) for c in ("width", "height"))
        pixels: npt.NDArray[np.float64] = width * height
        return -pixels
    if dedup.keep == "column":
        sign = -1.0 if dedup.keep_prefer == "max" else 1.0
        names = (str(dedup.keep_column),)
        return np.array([sign * _number(text, names) for text in fields["json"]], float)
    if dedup.keep == "clip_score":
        return np.array([-_number(text, CLIP_SCORES) for text in fields["json"]], float)
    return np.zeros(n)


def _number(text: str | None, names: Sequence[str]) -> float:
    """The first of the fields `names` that is a number, else NaN: it sorts last, whatever the sign."""
    known = json.loads(text) if text else {}
    for value in map(known.get, names):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer of hundreds of digits
                return float(value)
    return float("nan")


def of_place(dedup: Dedup, distance: npt.NDArray[np.float64], uids: Uids) -> Values | None:
    """(n,) values of `hard` (farthest from the centroid first), `easy`, `random` and `earliest`; else
    None."""
    if dedup.keep == "hard":
        return -distance
    if dedup.keep == "easy":
        return distance
    if dedup.keep == "random":
        return hashes(uids, dedup.seed)
    if dedup.keep == "earliest":
        return np.arange(len(uids))
    return None


def ranks(values: Values, uids: Uids, earlier: int = 0) -> npt.NDArray[np.int64]:
    """(n,) each sample's place in the order of (value, uid, gid), 0 first.

    The first `earlier` samples, of a corpus that is extended, come before all others.
    """
    n = len(uids)
    order = np.lexsort((np.arange(n), uids, values, np.arange(n) >= earlier))
    result = np.empty(n, np.int64)
    result[order] = np.arange(n)
    return result
