"""The nearest of a table of unit rows, exactly: fast products tell who may be, float64 ones decide.

Rows x and the table's rows c are taken from the table's mean m, since what they share says nothing:

    <x, c> = <x - m, c - m> + <m, c - m> + what is the same for every c

The first product is of int8 (see `products`), the second a number per c. With e the bound of the
error, whoever is among the p nearest is within 2 e of the p-th best: mostly few, and those few are
compared in float32, then in float64. Where they are many, what was cut off is taken in, in finer
steps: high x high + high x low + low x high. Where int8 is not faster, float32 products start.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from made_core.dedup import candidates
from made_core.vectors import unit64

MARGIN = candidates.MARGIN
LOWER = 254  # a step's half is 127 low steps
CROWDED = 1 / 100  # of a block's products: beyond it the low parts cost less than so many candidates
PIECE = 1024  # candidates compared at a time: they fit a core's cache
COUNTABLE = 2**30  # half of int32's range
GROUPS = 32  # parts of the table whose best tell a bound on the p-th best
SCORES = 1 << 20  # products of a block, about: 4 MB

Ints = npt.NDArray[np.int64]


class Table:
    """(k, dim) rows to be near to, none of them zero."""

    def __init__(self, rows: npt.NDArray[np.generic], int8: bool | None = None) -> None:
        self.exact = unit64(rows)  # (k, dim)
        self._int8 = candidates.int8_is_faster() if int8 is None else int8
        self._unit = torch.from_numpy(self.exact.astype(np.float32))
        self._middle = self._unit.mean(dim=0)
        away = self._unit - self._middle
        self._shift = (away.double() @ self._middle.double()).numpy()  # <m, c - m>
        self._parts = _Parts(away)
        self._turned = {  # the right sides of the products
            "unit": self._unit.T.contiguous(),
            "high": self._parts.high.steps.T.contiguous(),
            "low_high": torch.cat([self._parts.low.steps, self._parts.high.steps], dim=1).T.contiguous(),
        }
        self._buffers: dict[str, torch.Tensor] = {}

    def nearest(self, rows: npt.NDArray[np.float16], probes: int) -> npt.NDArray[np.int32]:
        """(n, min(probes, k)) of (n, dim) stored rows, the nearest first, ties to the lower.

        Neither the number of rows in a block nor the kind of products changes the result.
        """
        p = min(probes, len(self.exact))
        result = np.empty((len(rows), p), np.int32)
        block = max(256, min(4096, SCORES // len(self.exact)))
        for start in range(0, len(rows), block):
            result[start : start + block] = self._block(rows[start : start + block], p)
        return result

    def _block(self, rows: npt.NDArray[np.float16], p: int) -> npt.NDArray[np.int32]:
        row, column = self._candidates(candidates.unit32(rows), p)
        result = np.empty((len(rows), p), np.int32)
        if p == 1:  # who has one candidate is decided
            alone = np.bincount(row, minlength=len(rows))[row] == 1
            result[row[alone], 0] = column[alone]
            row, column = row[~alone], column[~alone]
        held, place = np.unique(row, return_inverse=True)
        score = _products(unit64(rows[held]), self.exact, place, column)
        row, column, rank = _best(row, column, score, p, 0.0)
        result[row[rank < p], rank[rank < p]] = column[rank < p]
        return result

    def _candidates(self, unit: torch.Tensor, p: int) -> tuple[Ints, Ints]:
        """(row, column) of all that may be among each row's p nearest, by row: at least p of each."""
        parts = _Parts(unit - self._middle) if self._int8 else None
        if parts is None or not self._countable(parts):
            return _above(self._times(unit, "unit"), p, 2 * MARGIN)
        mine, step = self._parts, parts.step * self._parts.high.scale
        error = parts.high.residual * mine.high.length + mine.high.residual * parts.longest
        shift = torch.from_numpy(np.rint(self._shift / (LOWER * step)).astype(np.int32))
        score = self._times(parts.high.steps, "high")
        row, column = _above(score.add_(shift), p, 2 * (error + MARGIN) / (LOWER * step) + 1)
        if len(row) <= len(unit) * (p + CROWDED * len(self.exact)):
            value = _products(unit.numpy(), self._unit.numpy(), row, column)
            return _best(row, column, value, p, 2 * MARGIN)[:2]
        both = self._times(torch.cat([parts.high.steps, parts.low.steps], dim=1), "low_high")
        error = parts.low.residual * mine.high.length + mine.low.residual * parts.longest
        error += parts.high.residual * mine.high.residual
        score = both.add_(score, alpha=LOWER)
        return _above(score, p, 2 * (error + MARGIN) / step + LOWER)

    def _countable(self, parts: _Parts) -> bool:
        """Whether no sum of steps can leave int32."""
        step = parts.step * self._parts.high.scale
        most = 2 * parts.longest * self._parts.longest + float(np.abs(self._shift).max()) + MARGIN
        return most / step < COUNTABLE

    def _times(self, left: torch.Tensor, right: str) -> torch.Tensor:
        """left @ right, where the last such product was: fresh pages cost more than the product."""
        table = self._turned[right]
        kind, product = (torch.float32, torch.mm) if right == "unit" else (torch.int32, torch._int_mm)
        if right not in self._buffers or len(self._buffers[right]) < len(left):
            self._buffers[right] = torch.empty((len(left), table.shape[1]), dtype=kind)
        result: torch.Tensor = product(left, table, out=self._buffers[right][: len(left)])
        return result


class _Parts:
    """(n, dim) float32 rows as high + low + rest, the low steps LOWER times as fine."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.high = candidates.quantise(rows)
        self.step = self.high.scale / LOWER
        # No sum of some of a row's parts is longer: each rest is at most as long as the one before.
        self.longest = self.high.length + 2 * self.high.residual

    @cached_property
    def low(self) -> candidates.Quantised:
        """Often not needed."""
        return candidates.quantise(self.high.rest, self.step)


def _above(score: torch.Tensor, p: int, slack: float) -> tuple[Ints, Ints]:
    """(row, column) of all scores within `slack` of their row's p-th best, by row, and some more.

    The p-th best of the maxima of groups of columns is at most the p-th best of all.
    """
    n, k = score.shape
    size = max(1, k // max(GROUPS, 4 * p))
    groups = k // size
    best = score[:, : groups * size].view(n, groups, size).amax(dim=2).numpy()
    bound = np.partition(best, groups - p, axis=1)[:, groups - p]
    found = np.flatnonzero(score.numpy() >= (bound - bound.dtype.type(slack))[:, None])
    return found // k, found % k


def _products(
    left: npt.NDArray[np.floating], right: npt.NDArray[np.floating], i: Ints, j: Ints
) -> npt.NDArray[np.floating]:
    """(m,) products <left[i], right[j]>."""
    result = np.empty(len(i), left.dtype)
    for start in range(0, len(i), PIECE):
        some = slice(start, start + PIECE)
        np.einsum("ij,ij->i", left[i[some]], right[j[some]], out=result[some])
    return result


def _best(
    row: Ints, column: Ints, score: npt.NDArray[np.floating], p: int, slack: float
) -> tuple[Ints, Ints, Ints]:
    """(row, column, rank in the row) of the scores within `slack` of their row's p-th best, best first.

    Each row has at least p; of equal scores the lower column is first.
    """
    order = np.lexsort((column, -score, row))
    row, column, score = row[order], column[order], score[order]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    start = np.repeat(first, np.diff(first, append=len(row)))
    keep = score >= score[start + p - 1] - slack if len(row) else np.zeros(0, bool)
    return row[keep], column[keep], (np.arange(len(row)) - start)[keep]
