"""The keep rules: the total order in which samples are decided. Of duplicates the first is kept.

Ties are broken by uid, then gid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core.corpus import clip_scores, original_sides
from made_core.corpus.identity import hashes
from made_core.corpus.json_fields import numbers
from made_core.corpus.sorting import Uids, ordered
from made_core.recipe_dedup import Dedup

Values = npt.NDArray[Any]  # (n,) numbers; the lowest comes first


def columns(dedup: Dedup) -> tuple[str, ...]:
    """The metadata columns that the keep rule reads."""
    read = {
        "largest": original_sides.COLUMNS,
        "clip_score": (clip_scores.COLUMN,),
        "column": ("json",),
    }
    return read.get(dedup.keep_rule, ())


def of_metadata(dedup: Dedup, fields: Mapping[str, Sequence[Any]], n: int) -> npt.NDArray[np.float64]:
    """(n,) values of the rules that read metadata: `largest`, `clip_score`, `column`; else 0.

    Samples without the number that `column` or `clip_score` reads come last.

    Args:
        fields: the n values of each of `columns(dedup)`.
    """
    if dedup.keep_rule == "largest":
        width, height = (np.array(fields[name], float) for name in original_sides.COLUMNS)
        pixels: npt.NDArray[np.float64] = width * height
        return -pixels
    if dedup.keep_rule == "column":
        sign = -1.0 if dedup.keep_prefer == "max" else 1.0
        return sign * numbers(fields["json"], (str(dedup.keep_column),))[:, 0]
    if dedup.keep_rule == "clip_score":
        return -np.array(fields[clip_scores.COLUMN], float)
    return np.zeros(n)


def values(
    dedup: Dedup,
    from_metadata: npt.NDArray[np.float64],
    distance: npt.NDArray[np.float64],
    uids: Uids,
) -> Values:
    """(n,) values of the keep rule.

    Args:
        from_metadata: (n,) of `of_metadata`. distance: (n,) 1 - cosine to the centroid of the home cluster.
    """
    if dedup.keep_rule == "largest":
        return _then(from_metadata, distance)
    found = without_metadata(dedup, distance, uids)
    return from_metadata if found is None else found


def _then(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(n,) integers in the order of (first, second), equal where both are."""
    order = np.lexsort((second, first))
    new = np.zeros(len(order), bool)
    for column in (first[order], second[order]):
        new[1:] |= column[1:] != column[:-1]
    result = np.empty(len(order), np.int64)
    result[order] = np.cumsum(new)
    return result


def without_metadata(dedup: Dedup, distance: npt.NDArray[np.float64], uids: Uids) -> Values | None:
    """(n,) values of the rules that read no metadata: `hard`, `easy`, `random`, `earliest`; else None.

    Args:
        distance: (n,) 1 - cosine to the centroid of the home cluster. `hard`: the farthest first.
    """
    if dedup.keep_rule == "hard":
        return -distance
    if dedup.keep_rule == "easy":
        return distance
    if dedup.keep_rule == "random":
        return hashes(uids, dedup.seed)
    if dedup.keep_rule == "earliest":
        return np.arange(len(uids))
    return None


def ranks(values: Values, uids: Uids, earlier: int = 0) -> npt.NDArray[np.int64]:
    """(n,) each sample's position in the order of (value, uid, gid), 0 for the first.

    The first `earlier` samples, those of the extended corpus, come before all others.
    """
    before = ordered(values[:earlier], lambda some: (uids[some],))
    after = ordered(values[earlier:], lambda some: (uids[earlier + some],)) + earlier
    result = np.empty(len(uids), np.int64)
    result[np.concatenate([before, after])] = np.arange(len(uids))
    return result
