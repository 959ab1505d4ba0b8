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
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
import torch

from made_core.vectors import MARGIN, Rows

NARROWEST = 16  # coordinates of rows that int8 multiplies: below, torch's product has been seen to be wrong
WIDEST = 0.05  # of int8's margin: beyond it float32 finds fewer candidates
SPARSE = 1 / 200  # of a block's pairs: with more candidates than this, float32 sorts them first
SLAB = 512  # rows of a product whose scores are held: 4 MB beside 2048 others
HELD = 4 << 20  # bytes of blocks that `near_pairs.near` prepares once for many products
TRIAL = 1024  # rows of the product that is timed

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """A block of rows, ready for products."""

    rows: Rows  # (n, dim) stored rows
    wide: torch.Tensor | None  # (n, dim) float32 unit rows; None: computed when they are asked for
    quantised: torch.Tensor | None  # (n, dim) int8; None: float32 is as fast here
    scale: float  # a quantised coordinate's step
    residual: float  # no row's cut-off part is longer

    @property
    def unit(self) -> torch.Tensor:
        """(n, dim) float32 unit rows."""
        return unit32(self.rows) if self.wide is None else self.wide

    @cached_property
    def table(self) -> torch.Tensor:
        """(dim, n) int8: the quantised rows as the right side of a product."""
        assert self.quantised is not None
        # `contiguous` keeps the strides of a single row or column as they are; a new tensor has its own.
        return torch.empty(self.quantised.T.shape, dtype=torch.int8).copy_(self.quantised.T)


def prepare(rows: Rows, int8: bool | None = None) -> Block:
    """A block of (n, dim) stored rows, none of them zero. `int8` None: where it is faster."""
    unit = unit32(rows)
    wanted = int8_is_faster() if int8 is None else int8
    if not wanted or not len(rows) or unit.shape[1] < NARROWEST:
        return Block(rows, unit, None, 0.0, 0.0)
    scale = float(unit.abs().max()) / 127
    steps = (unit / scale).round_()
    cut = steps.to(torch.int8)
    rest = steps.mul_(-scale).add_(unit)
    return Block(rows, None, cut, scale, float(torch.linalg.vector_norm(rest, dim=1).max()))


def candidates(left: Block, right: Block, bound: float) -> tuple[Ints, Ints]:
    """(i, j) of all pairs of left and right rows whose true product exceeds `bound`, and some more."""
    width = len(right.rows)
    if left.quantised is not None and right.quantised is not None:
        margin = left.residual + right.residual + 3 * left.residual * right.residual + MARGIN
        if margin <= WIDEST:
            least = int(np.floor((bound - margin) / (left.scale * right.scale)))
            found = _above(left.quantised, lambda some: torch._int_mm(some, right.table), least)
            if len(found) <= SPARSE * len(left.rows) * width:
                return found // width, found % width
    columns = right.unit.T
    found = _above(left.unit, lambda some: some @ columns, bound - MARGIN)
    return found // width, found % width


def _above(left: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor], least: float) -> Ints:
    """The places, row by row, of the products with `left` that exceed `least`; SLAB rows at a time."""
    found = [np.zeros(0, np.int64)]
    place = 0
    for start in range(0, len(left), SLAB):
        score = product(left[start : start + SLAB]).numpy().ravel()
        if score.size and score.max() > least:  # most slabs have none, and the largest is found faster
            found.append(np.flatnonzero(score > least) + place)
        place += score.size
        del score  # before the next one is made
    return np.concatenate(found)


def held(dim: int, block: int) -> int:
    """How many blocks of (block, dim) rows are held at once."""
    return max(1, HELD // (block * dim * (1 if int8_is_faster() else 4)))


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
        # Without instructions for int8, the large product takes seconds: smaller ones tell first.
        return all(_gain(TRIAL // part) >= 1 / 4 for part in (8, 4, 2)) and _gain(TRIAL) >= 2
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
