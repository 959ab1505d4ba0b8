"""Decisions do not depend on the precision of products; the benchmark's form of a million rows, bounded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.exact import EPS, changed, covered


@pytest.mark.parametrize("eps", EPS)
def test_no_decision_depends_on_the_product(eps: float) -> None:
    found = changed(4096, eps, seed=7)
    assert {name: ours for name, (ours, _) in found.items()} == {"fp32": 0, "bf16": 0, "fp16": 0}
    assert found["bf16"][1] > 100, "the rows are near the bound: bf16 alone would decide otherwise"


def test_cover() -> None:
    rows = np.array([[1, 0], [0.999, 0.045], [0.98, 0.199], [0, 1]], np.float16)
    assert covered(rows, 0.01).tolist() == [True, False, True, True]
