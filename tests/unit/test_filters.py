"""Each filter at its bound, and the first that fails gives the Reason."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core import filters
from made_core.corpus import tables
from made_core.embed import metadata
from made_core.filters.filter import ORIGINAL_SIDES
from made_core.recipe import Filters


def names(records: list[dict[str, Any]], **bounds: Any) -> list[str | None]:
    """The reasons, of metadata as `embed` stores it."""
    settings = Filters(**bounds)
    schema = metadata.SCHEMA  # and as `corpus.tables` reads it:
    for name in tables.DERIVED:
        schema = schema.append(pa.field(name, pa.float64()))
    table = pa.Table.from_pylist(records, schema=schema).select(filters.columns(settings))
    codes = filters.apply(table, settings)
    assert len(codes) == len(records) and codes.dtype == np.int8
    return filters.names(codes)


def image(
    width: int = 100, height: int = 100, caption: str | None = "two words", **other: Any
) -> dict[str, Any]:
    """A readable sample."""
    sides = dict(zip(ORIGINAL_SIDES, (width, height), strict=True))
    return {**sides, "caption": caption, **other}


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
        ({"min_clip_score": 0.25}, image(clip_score=0.25), None),
        ({"min_clip_score": 0.25}, image(clip_score=0.2499), "low_clip_score"),
        ({"min_clip_score": -1}, image(clip_score=None), "low_clip_score"),
        ({}, image(1, 100_000, None), None),
    ],
)
def test_bounds(bounds: dict[str, Any], sample: dict[str, Any], reason: str | None) -> None:
    """At the bound a sample stays, beyond it it is dropped."""
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


SIDES = st.integers(1, 9)


@st.composite
def samples(draw: st.DrawFn) -> dict[str, Any]:
    """A sample as embed stores it: an unreadable one has no size."""
    caption = draw(st.none() | st.text(" a\u00e9\u2003\n", max_size=8))
    if draw(st.booleans()):
        return {"error": "broken", "caption": caption}
    return image(draw(SIDES), draw(SIDES), caption)


BOUNDS = st.fixed_dictionaries(
    {
        "min_side": st.none() | SIDES,
        "max_aspect": st.none() | st.sampled_from([1, 1.5, 2, 3.25]),
        "min_words": st.none() | st.integers(1, 4),
        "min_chars": st.none() | st.integers(1, 6),
    }
)


def expected(sample: dict[str, Any], bounds: dict[str, Any]) -> str | None:
    """The reason, from the description of each bound in the recipe."""
    if sample.get("error"):
        return "unreadable"
    short, long = sorted(sample[name] for name in ORIGINAL_SIDES)
    caption = sample["caption"] or ""
    holds = {
        "small_side": bounds["min_side"] is None or short >= bounds["min_side"],
        "aspect_ratio": bounds["max_aspect"] is None or long / short <= bounds["max_aspect"],
        "few_words": bounds["min_words"] is None or len(caption.split()) >= bounds["min_words"],
        "few_chars": bounds["min_chars"] is None or len(caption) >= bounds["min_chars"],
    }
    return next((reason for reason, held in holds.items() if not held), None)


@given(st.lists(samples(), max_size=6), BOUNDS)
def test_reasons_follow_the_bounds(records: list[dict[str, Any]], bounds: dict[str, Any]) -> None:
    assert names(records, **bounds) == [expected(r, bounds) for r in records]


@given(st.lists(samples(), max_size=6), BOUNDS)
def test_a_sample_is_judged_by_itself(records: list[dict[str, Any]], bounds: dict[str, Any]) -> None:
    """In any table."""
    assert names(records, **bounds) == [reason for r in records for reason in names([r], **bounds)]


@given(st.lists(samples(), max_size=6), BOUNDS, st.sampled_from([f.field for f in filters.FILTERS]))
def test_a_filter_that_is_off_drops_nothing(
    records: list[dict[str, Any]], bounds: dict[str, Any], off: str
) -> None:
    """Turning one off keeps the other reasons, unless it was the first to fail."""
    (reason,) = [f.reason.name for f in filters.FILTERS if f.field == off]
    before, after = names(records, **bounds), names(records, **{**bounds, off: None})
    assert reason not in after
    assert all(new == old for old, new in zip(before, after, strict=True) if old != reason)


def test_a_filter_is_complete() -> None:
    """Its recipe field is its own, and the metadata has its columns."""
    fields = [f.field for f in filters.FILTERS]
    assert list(Filters.model_fields) == fields and len(set(fields)) == len(fields)
    every = Filters(**{f.field: f.example for f in filters.FILTERS})
    assert set(filters.columns(every)) <= {*metadata.SCHEMA.names, *tables.DERIVED}
    assert filters.columns(Filters()) == ["error"]
    for f in filters.FILTERS:
        assert f"filters.{f.field}" in f.reason.meaning
        assert getattr(Filters(**{f.field: f.example}), f.field) == f.example
        assert getattr(Filters(), f.field) is None


def test_the_section_made_from_the_filters_is_a_section() -> None:
    """Frozen, strict and picklable, like the hand-written sections of the recipe."""
    bounds = Filters(min_side=3)
    assert pickle.loads(pickle.dumps(bounds)) == bounds
    with pytest.raises(ValueError, match="frozen"):
        bounds.__setattr__("min_side", 4)
    with pytest.raises(ValueError, match="Extra inputs"):
        Filters(min_sides=3)
