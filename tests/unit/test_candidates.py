"""Candidates contain every pair above the bound, with any kind of products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core.dedup import candidates, near_pairs
from tests.support import oracle


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.sampled_from([1, 3, 16, 64, 320]),
    st.sampled_from([0.0, 1e-3, 0.05, 0.5]),
    st.sampled_from([0.0, 1.0, 8.0]),
    st.sampled_from([-0.5, 0.0, 0.7, 0.95, 0.9999]),
)
def test_no_pair_is_lost(seed: int, n: int, dim: int, spread: float, spike: float, bound: float) -> None:
    """Clumps of any width, with and without one dominating coordinate."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, dim))[rng.integers(0, 3, n)] + spread * rng.normal(size=(n, dim))
    rows[:, 0] += spike
    stored = rows.astype(np.float16)
    stored[(stored == 0).all(axis=1)] = 1
    x = oracle.unit(stored)
    expected = set(zip(*np.nonzero(oracle.products(x, x) > bound), strict=True))
    for int8 in (False, True):
        block = candidates.prepare(stored, int8)
        assert (block.quantised is not None) == (int8 and dim >= candidates.NARROWEST)
        i, j = candidates.candidates(block, block, bound)
        assert expected <= set(zip(i, j, strict=True))


def test_int8_finds_few_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """On rows like an encoder's, int8 gives the same pairs without falling back to float32."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(200, 512)), 2, 0) + 0.1 * rng.normal(size=(400, 512))
    stored = rows.astype(np.float16)
    block = candidates.prepare(stored, True)
    assert 2 * block.residual < candidates.WIDEST
    i, _ = candidates.candidates(block, block, 0.9)
    assert 800 <= len(i) < 1000
    found = {}
    for int8 in (False, True):
        monkeypatch.setattr(candidates, "int8_is_faster", lambda int8=int8: int8)
        found[int8] = [tuple(map(np.ndarray.tolist, some)) for some in near_pairs.near(stored, 0.9, 128)]
    assert found[False] == found[True] and sum(len(i) for i, _, _ in found[True]) == 200


def test_the_trial_returns() -> None:
    assert candidates.int8_is_faster() in (True, False)
