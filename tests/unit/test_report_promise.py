"""What the report says of the check of the removed duplicates."""

from __future__ import annotations

import pytest

from made_core.report.charts import Histogram
from made_core.report.report import render
from tests.support.page import Page
from tests.support.summaries import summary_of

NO_PAIRS = Histogram((0.9, 1.0), (0,), 0.95)


@pytest.mark.parametrize("rule", ["cover", "reference"])
def test_a_broken_promise_is_reported(rule: str) -> None:
    dedup = summary_of().dedup.model_dump() | {"rule": rule}
    summary = summary_of(promise={"checked": 1000, "recomputed": 1000, "broken": 3}, dedup=dedup)
    text = Page(render(summary, NO_PAIRS, [], [], [])).text
    assert "Not all." in text and "Of 1,000 removed duplicates, 3 (0.30%) have no kept sample" in text
    assert "All similarities were computed again" in text
    assert ("The reference rule allows this" in text) == (rule == "reference")


@pytest.mark.parametrize(
    ("checked", "recomputed", "words"),
    [
        (1, 1, "The one removed duplicate is represented by a kept sample, and their similarity is above"),
        (1, 1, "It was computed again"),
        (9000, 9000, "Each of the 9,000 removed duplicates is represented by a kept sample"),
        (9000, 9000, "All similarities were computed again"),
        (9000, 640, "640 of the similarities, drawn from all shards, were computed again"),
    ],
)
def test_a_kept_promise_is_reported(checked: int, recomputed: int, words: str) -> None:
    promise = {"checked": checked, "recomputed": recomputed, "broken": 0}
    assert words in Page(render(summary_of(promise=promise), NO_PAIRS, [], [], [])).text
