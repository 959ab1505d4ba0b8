"""The nearest rows of a table are those by float64 products, with any kind of products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.cluster import nearest
from tests.support import oracle


def clumped(seed: int, n: int, dim: int, spread: float, spike: float) -> np.ndarray:
    """Rows in three clumps of any width, with and without one dominating coordinate; none zero."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(3, dim))[generator.integers(0, 3, n)]
    rows = rows + spread * generator.normal(size=(n, dim))
    rows[:, 0] += spike
    rows[(rows == 0).all(axis=1)] = 1
    return rows


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([1, 2, 17, 150]),
    st.sampled_from([1, 3, 64, 320]),
    st.sampled_from([0.0, 1e-6, 1e-3, 0.05, 0.5]),
    st.sampled_from([0.0, 1.0, 8.0]),
    st.sampled_from([1, 2, 5, 64]),
    st.sampled_from([0.0, 0.01, 1.0]),
)
def test_float64_decides(
    seed: int, n: int, k: int, dim: int, spread: float, spike: float, p: int, crowded: float
) -> None:
    """By float32, by int8's high parts alone (crowded: 1), and by both parts (0)."""
    rows = clumped(seed, n, dim, spread, spike).astype(np.float16)
    rows[(rows == 0).all(axis=1)] = 1
    means = oracle.unit(clumped(seed + 1, k, dim, spread, spike)).astype(np.float32)
    means[k // 2 :] = means[: k - k // 2]  # exact ties
    expected = oracle.nearest(rows, means, p)
    best = np.take_along_axis(oracle.products(oracle.unit(rows), oracle.unit(means)), np.array(expected), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "CROWDED", crowded)
        for int8 in (False, True):
            found = nearest.Table(means, int8).nearest(rows, p)
            assert found.shape == (n, min(p, k)) and found.dtype == np.int32
            score = oracle.products(oracle.unit(rows), oracle.unit(means))
            # Sums of 320 float64 products differ in their last bits with the order of summing.
            assert np.abs(np.take_along_axis(score, found.astype(np.int64), 1) - best).max() < 1e-14
            assert all(len(set(probes)) == len(probes) for probes in found.tolist())
            clear = np.flatnonzero((np.diff(-np.sort(-score, axis=1), axis=1) < -1e-14).all(axis=1))
            assert found[clear].tolist() == np.array(expected)[clear].tolist()


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("crowded", [0.0, 1.0])
def test_int8_equals_float32(p: int, crowded: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On rows like an encoder's, in several blocks, without falling back to float32."""
    monkeypatch.setattr(nearest, "CROWDED", crowded)
    rows = clumped(0, 600, 512, 0.7, 6.0).astype(np.float16)
    means = clumped(1, 600, 512, 0.7, 6.0)
    expected = nearest.Table(means, int8=False).nearest(rows, p)
    monkeypatch.setattr(torch, "mm", None)
    assert nearest.Table(means, int8=True).nearest(rows, p).tolist() == expected.tolist()
    monkeypatch.setattr(nearest, "SCORES", 1)
    assert nearest.Table(means, int8=True).nearest(rows, p).tolist() == expected.tolist()


def test_steps_too_small_to_count() -> None:
    """A table of one direction: its rows' differences are of float32's last bits."""
    means = np.tile(clumped(2, 1, 64, 0.0, 0.0), (40, 1)).astype(np.float32)
    means.view(np.int32)[1::2, 3] += 1
    rows = clumped(3, 50, 64, 0.5, 0.0).astype(np.float16)
    found = nearest.Table(means, int8=True).nearest(rows, 3)
    assert found.tolist() == oracle.nearest(rows, means, 3)


def test_no_rows() -> None:
    assert nearest.Table(np.eye(4), int8=True).nearest(np.zeros((0, 4), np.float16), 2).shape == (0, 2)
