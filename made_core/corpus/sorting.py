"""Sorting by several keys, and equal uids, where a corpus has hundreds of millions of samples.

Uids are compared only where the first key is equal: a sort of byte strings takes ten times as long as one
of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Uids = npt.NDArray[np.bytes_]
ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, The Art of Computer Programming 3, 6.4)


def ordered(
    first: npt.NDArray[Any], more: Callable[[Ints], Sequence[npt.NDArray[Any]]] = lambda some: ()
) -> Ints:
    """(n,) the positions 0 to n - 1 in the order of (first, *more, position).

    Args:
        first: (n,) numbers. NaN come last, and are equal.
        more: gives the further keys of some positions; it is asked only for those whose `first` repeats.
    """
    order = np.argsort(first, kind="stable")
    key = first[order]
    again = key[1:] == key[:-1]
    if key.dtype.kind == "f":
        again |= np.isnan(key[1:]) & np.isnan(key[:-1])
    tied = np.zeros(len(order), bool)
    tied[1:] |= again
    tied[:-1] |= again
    begins = np.ones(len(order), bool)
    begins[1:] = ~again
    some = order[tied]
    if len(some):
        run = np.cumsum(begins[tied])
        order[tied] = some[np.lexsort((some, *reversed(more(some)), run))]
    return order


def first_of_equal(uids: Uids) -> Ints:
    """(n,) the lowest position with the same uid."""
    hashed = _hashes(uids)
    order = ordered(hashed, lambda some: (uids[some],))
    ordered_hashes = hashed[order]
    same = np.zeros(len(order), bool)
    alike = np.flatnonzero(ordered_hashes[1:] == ordered_hashes[:-1])
    same[alike + 1] = uids[order[alike]] == uids[order[alike + 1]]
    begins = np.flatnonzero(~same)
    result = np.empty(len(order), np.int64)
    result[order] = np.repeat(order[begins], np.diff(np.append(begins, len(order))))
    return result


def _hashes(uids: Uids) -> npt.NDArray[np.uint64]:
    """(n,) equal for equal uids, and hardly ever for others."""
    width = -(-uids.dtype.itemsize // 8) * 8
    words = np.ascontiguousarray(uids, f"S{width}").view(np.uint64).reshape(len(uids), width // 8)
    result = np.zeros(len(uids), np.uint64)
    for column in words.T:
        result ^= column
        result *= ODD
        result ^= result >> np.uint64(32)
    return result
