"""Marks, the precision that they show, and the page of `made review`; a browser marks it in tests/e2e."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core.errors import UserError
from made_core.report import marks, review
from made_core.report.bands import Band, every
from made_core.report.marks import Mark, Marks
from made_core.report.precision import MarkedBand, Precision, up_to
from made_core.report.report import Example
from made_core.report.review import Pair
from tests.support.summaries import summary_of

HOSTILE = "</script><script>alert(1)</script><!-- \ud83d"
UIDS = np.array([b"a", b"b", b"c", b"d"])


def band(eps: float, removed: list[int], representatives: list[int]) -> Band:
    return Band(eps, 4, 2, len(removed), np.array(removed, int), np.array(representatives, int))


BANDS = [band(0.1, [1], [0]), band(0.2, [2, 3], [0, 0])]


def marks_of(*some: tuple[float, str, str, bool]) -> Marks:
    found = [Mark(eps=eps, kept=kept, removed=removed, right=right) for eps, kept, removed, right in some]
    return Marks(format="made-marks", run="try-1", decisions_digest="0" * 16, eps=[0.1, 0.2], marks=found)


def limits(found: Precision) -> tuple[float, float, float]:
    assert found.estimate is not None and found.low is not None and found.high is not None
    return found.low, found.estimate, found.high


def test_the_interval_of_a_band_is_wilsons() -> None:
    """Newcombe (1998), table I: 81 of 263 gives .2553 to .3662; 0 of 20 gives 0 to .1611."""
    assert limits(MarkedBand(10_000, 263, 81).precision) == pytest.approx(
        (0.2553, 81 / 263, 0.3662), abs=5e-5
    )
    assert limits(MarkedBand(10_000, 20, 0).precision) == pytest.approx((0, 0, 0.1611), abs=5e-5)
    assert MarkedBand(5, 0, 0).precision.estimate is None
    assert limits(MarkedBand(4, 4, 3).precision) == (0.75, 0.75, 0.75), "all are marked: exact"


counts = st.tuples(st.integers(1, 500), st.integers(1, 500), st.integers(0, 500)).map(
    lambda t: MarkedBand(max(t[0], t[1]), t[1], min(t[1], t[2]))
)


@given(st.lists(counts, min_size=1, max_size=8))
def test_up_to_an_eps_bands_weigh_what_they_remove(some: list[MarkedBand]) -> None:
    low, p, high = limits(up_to(some))
    total = sum(b.removed for b in some)
    assert p == pytest.approx(sum(b.removed * b.right / b.marked for b in some) / total)
    assert 0 <= low <= p + 1e-12 and p - 1e-12 <= high <= 1
    assert limits(up_to(some[:1])) == pytest.approx(limits(some[0].precision))
    assert up_to([*some, MarkedBand(0, 0, 0)]) == up_to(some), "a band that removes nothing does not count"
    assert up_to([*some, MarkedBand(9, 0, 0)]).estimate is None, "an unmarked band leaves it unknown"


def test_the_interval_covers() -> None:
    """Two bands of different precision, 24 marks of each: the true precision is within for most draws."""
    random, inside = np.random.default_rng(0), 0
    shares, sizes = np.array([0.98, 0.7]), np.array([3000, 1000])
    truth = float((shares * sizes).sum() / sizes.sum())
    for _ in range(400):
        right = random.binomial(24, shares)
        low, _, high = limits(
            up_to([MarkedBand(int(n), 24, int(r)) for n, r in zip(sizes, right, strict=True)])
        )
        inside += low <= truth <= high
    assert inside >= 0.92 * 400


def test_marks_are_counted_by_band() -> None:
    found = marks_of((0.1, "a", "b", True), (0.2, "a", "c", False), (0.2, "a", "d", True))
    assert marks.counted(BANDS, UIDS, found) == [MarkedBand(1, 1, 1), MarkedBand(2, 2, 1)]
    assert marks.counted(BANDS, UIDS, marks_of()) == [MarkedBand(1, 0, 0), MarkedBand(2, 0, 0)]


@pytest.mark.parametrize(
    "some, sentence",
    [
        ([(0.1, "a", "c", True)], "at eps 0.1 this run does not remove sample c because of a"),
        ([(0.1, "c", "b", True)], "does not remove sample b because of c"),
        ([(0.1, "a", "b", True), (0.1, "a", "b", False)], "sample b is marked twice at eps 0.1"),
    ],
)
def test_marks_of_other_pairs_are_refused(some: list[tuple[float, str, str, bool]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        marks.counted(BANDS, UIDS, marks_of(*some))


def test_every_eps() -> None:
    assert every([0.2, 0.1, 0.2], 0.24) == [0.1, 0.2]
    assert every([], 0.24) == [0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24]
    with pytest.raises(UserError, match="allowed: above 0"):
        every([math.nan], 0.24)


def test_the_page_is_one_file_with_its_data() -> None:
    some = Example("u" * 32, "00003", "000030007", 0.9, HOSTILE, None)
    page = review.render(summary_of(), BANDS, [Pair(0, some, some)])
    assert page.count("<script") == 2 and "<!--" not in page and not re.search(r"(src|href)=", page)
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    loaded = json.loads(data)
    assert loaded["pairs"][0]["removed"]["caption"] == HOSTILE and loaded["bands"][1] == {
        "eps": 0.2,
        "removed": 2,
    }
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page, "the browser runs this script and no other"
    assert page.encode().decode() == page


def test_a_run_without_removals_has_nothing_to_review() -> None:
    page = review.render(summary_of(), [band(0.1, [], []), band(0.2, [], [])], [])
    assert "No eps from 0.1 to 0.2 removes a near-duplicate" in page and 'id="save"' not in page
