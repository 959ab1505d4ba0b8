"""Fast products of unit rows that find candidates; the float64 product of the stored rows decides.

int8 products run several times as fast as float32 ones where the CPU has VNNI. Rows x, y are cut to
s q + e with q in -127..127, so by Cauchy-Schwarz, with r >= |e|:

    |<x, y> - s_x s_y <q_x, q_y>|  <=  r_x |y| + r_y |x| + r_x r_y

and r is computed from the rows themselves: no pair is lost. Where few large coordinates make r, and
so the number of candidates, too large, float32 products are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from made_core.vectors import MARGIN, Rows

NARROWEST = 16  # coordinates of rows that int8 multiplies: below, torch's product has been seen to be wrong
WIDEST = 0.05  # of int8's margin: beyond it float32 finds fewer candidates
SPARSE = 1 / 200  # of a block's pairs: with more candidates than this, float32 sorts them first
SLAB = 512  # rows of a product whose scores are held: 4 MB beside 2048 others
TRIAL = 1024  # rows of the product that is timed

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """A block of rows, ready for products."""

    unit: torch.Tensor  # (n, dim) float32 unit rows
    quantised: torch.Tensor | None  # (n, dim) int8; None: float32 is as fast here
    scale: float  # a quantised coordinate's step
    residual: float  # no row's cut-off part is longer


def prepare(rows: Rows, int8: bool | None = None) -> Block:
    """A block of (n, dim) stored rows, none of them zero. `int8` None: where it is faster."""
    unit = unit32(rows)
    wanted = int8_is_faster() if int8 is None else int8
    if not wanted or not len(rows) or unit.shape[1] < NARROWEST:
        return Block(unit, None, 0.0, 0.0)
    scale = float(unit.abs().max()) / 127
    steps = (unit / scale).round_()
    cut = steps.to(torch.int8)
    rest = steps.mul_(-scale).add_(unit)
    return Block(unit, cut, scale, float(torch.linalg.vector_norm(rest, dim=1).max()))


def candidates(left: Block, right: Block, bound: float) -> tuple[Ints, Ints]:
    """(i, j) of all pairs of left and right rows whose true product exceeds `bound`, and some more."""
    width = len(right.unit)
    if left.quantised is not None and right.quantised is not None:
        margin = left.residual + right.residual + 3 * left.residual * right.residual + MARGIN
        if margin <= WIDEST:
            least = int(np.floor((bound - margin) / (left.scale * right.scale)))
            # `contiguous` keeps the strides of a single row or column as they are; a new tensor has its own.
            table = torch.empty(right.quantised.T.shape, dtype=torch.int8).copy_(right.quantised.T)
            found = _above(left.quantised, lambda some: torch._int_mm(some, table), least)
            if len(found) <= SPARSE * len(left.unit) * width:
                return found // width, found % width
    found = _above(left.unit, lambda some: some @ right.unit.T, bound - MARGIN)
    return found // width, found % width


def _above(left: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor], least: float) -> Ints:
    """The places, row by row, of the products with `left` that exceed `least`; SLAB rows at a time."""
    found = [np.zeros(0, np.int64)]
    place = 0
    for start in range(0, len(left), SLAB):
        score = product(left[start : start + SLAB]).numpy().ravel()
        found.append(np.flatnonzero(score > least) + place)
        place += score.size
    return np.concatenate(found)


def unit32(rows: Rows) -> torch.Tensor:
    """(n, dim) float32 unit rows."""
    # torch widens ten times as fast as numpy, but takes no array that is read-only.
    unit = torch.from_numpy(np.require(rows, requirements="W")).to(torch.float32, copy=True)
    unit /= unit.norm(dim=1, keepdim=True)
    return unit


@cache
def int8_is_faster() -> bool:
    """Whether this CPU multiplies int8 at least twice as fast as float32: a trial of milliseconds.

    No decision depends on it, only the time it takes.
    """
    try:
        # Without instructions for int8, the large product takes seconds: a small one tells first.
        return _gain(TRIAL // 8) >= 1 / 4 and _gain(TRIAL) >= 2
    except (AttributeError, RuntimeError):  # no such product in this torch, or on this CPU
        return False


def _gain(size: int) -> float:
    """How many times as fast as float32 int8 multiplies matrices of size x size."""
    wide = torch.ones((size, size))
    narrow = torch.ones((size, size), dtype=torch.int8)
    return _seconds(lambda: wide @ wide) / _seconds(lambda: torch._int_mm(narrow, narrow))


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    product()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return min(times)
