"""Each filter at its bound, and the first that fails gives the Reason."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from made_core.dedup import filters
from made_core.embed import metadata
from made_core.recipe import Filters
from made_core.types import Reason


def names(records: list[dict[str, Any]], **bounds: Any) -> list[str | None]:
    """The reasons, as `embeddings` stores the metadata."""
    table = pa.Table.from_pylist(records, schema=metadata.SCHEMA).select(list(filters.COLUMNS))
    codes = filters.apply(table, Filters(**bounds))
    assert len(codes) == len(records)
    return [None if c == filters.KEPT else filters.REASONS[c].value for c in codes.tolist()]


def image(
    width: int = 100, height: int = 100, caption: str | None = "two words", **other: Any
) -> dict[str, Any]:
    """A readable sample."""
    return {"width": width, "height": height, "caption": caption, **other}


@pytest.mark.parametrize(
    ("bounds", "sample", "reason"),
    [
        ({"min_side": 100}, image(100, 300), None),
        ({"min_side": 100}, image(99, 300), "small_side"),
        ({"min_side": 100}, image(300, 99), "small_side"),
        ({"max_aspect": 3}, image(300, 100), None),
        ({"max_aspect": 3}, image(301, 100), "aspect_ratio"),
        ({"max_aspect": 3}, image(100, 301), "aspect_ratio"),
        ({"max_aspect": 1}, image(100, 100), None),
        ({"max_aspect": 1.5}, image(150, 100), None),
        ({"min_words": 2}, image(), None),
        ({"min_words": 3}, image(), "few_words"),
        ({"min_words": 2}, image(caption=" a\t\n b\u2003"), None),
        ({"min_words": 3}, image(caption=" a\t\n b\u2003"), "few_words"),
        ({"min_words": 1}, image(caption=None), "few_words"),
        ({"min_words": 1}, image(caption=""), "few_words"),
        ({"min_chars": 9}, image(), None),
        ({"min_chars": 10}, image(), "few_chars"),
        ({"min_chars": 4}, image(caption="käsé"), None),
        ({"min_chars": 1}, image(caption=None), "few_chars"),
        ({}, image(1, 100_000, None), None),
    ],
)
def test_bounds(bounds: dict[str, Any], sample: dict[str, Any], reason: str | None) -> None:
    """At the bound a sample stays, past it it goes."""
    assert names([sample], **bounds) == [reason]


def test_the_first_that_fails_is_the_reason() -> None:
    """Unreadable, side, aspect, words, characters."""
    everything = {"min_side": 10, "max_aspect": 2, "min_words": 2, "min_chars": 20}
    samples = [
        {"error": "broken"},
        image(1, 100, "x", error="broken"),
        image(1, 100, "x"),
        image(10, 100, "x"),
        image(10, 10, "x"),
        image(10, 10, "x y"),
        image(10, 10, "x" * 20 + " y"),
    ]
    expected = ["unreadable", "unreadable", "small_side", "aspect_ratio", "few_words", "few_chars", None]
    assert names(samples, **everything) == expected
    assert names(samples)[:2] == ["unreadable"] * 2
    assert names(samples)[2:] == [None] * 5


def test_nothing() -> None:
    """An empty table with all filters on."""
    assert names([], min_side=1, max_aspect=1, min_words=1, min_chars=1) == []


def test_codes_fit() -> None:
    """Every Reason has a code, and none is KEPT."""
    assert [filters.REASONS[filters.code(r)] for r in Reason] == list(Reason)
    assert all(0 <= filters.code(r) < 128 for r in Reason)
