"""Reasons differ in every field, and stored codes never change."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core import filters
from made_core.reasons import BUILTIN, DUPLICATES, KEPT, NEAR_DUPLICATE, UNREADABLE, Codes
from made_core.report import charts, html, report
from tests.support.summaries import summary_of

STORED = {  # as stored by existing generations: no line may change
    -1: None,
    0: "unreadable",
    1: "repeated_uid",
    2: "exact_copy",
    3: "placeholder",
    4: "near_duplicate",
    5: "small_side",
    6: "aspect_ratio",
    7: "few_words",
    8: "few_chars",
}


@pytest.mark.parametrize("part", ["code", "name", "label", "meaning"])
def test_reasons_differ_in_every_part(part: str) -> None:
    parts = [getattr(r, part) for r in filters.REASONS]
    assert len(set(parts)) == len(parts) and "" not in parts
    assert set(BUILTIN) | {f.reason for f in filters.FILTERS} == set(filters.REASONS)


def test_stored_codes_read_the_same() -> None:
    codes: Codes = np.array(list(STORED), np.int8)
    assert filters.names(codes)[: len(STORED)] == list(STORED.values())
    assert [r.code for r in filters.REASONS] == sorted(r.code for r in filters.REASONS)
    assert KEPT not in {r.code for r in filters.REASONS} and set(DUPLICATES) < set(BUILTIN)


@given(st.integers(-128, 127))
def test_a_code_has_its_reason_or_is_refused(code: int) -> None:
    if code in {r.code for r in filters.REASONS}:
        reason = filters.by_code(code)
        assert reason.code == code and filters.by_name(reason.name) is reason
    else:
        with pytest.raises(ValueError, match=f"no reason has the code {code}, known: 0, 1, "):
            filters.by_code(code)


def test_a_meaning_has_the_bound_of_its_own_filter() -> None:
    bounds = {"min_side": 16, "min_words": 2}
    said = {r.name: filters.meaning(r, bounds).removeprefix(r.meaning) for r in filters.REASONS}
    assert {name: bound for name, bound in said.items() if bound} == {
        "small_side": " (16)", "few_words": " (2)",
    }  # fmt: skip


def test_a_name_of_another_version() -> None:
    assert filters.by_name("own_filter") is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"code": UNREADABLE.code}, "two reasons share 0"),
        ({"name": "unreadable"}, "two reasons share 'unreadable'"),
        ({"code": 128}, "has the code 128, allowed: 0 to 127"),
        ({"code": KEPT}, "has the code -1, allowed: 0 to 127"),
    ],
)
def test_a_reason_that_clashes_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        filters.checked([UNREADABLE, replace(NEAR_DUPLICATE, **changes)])


def test_every_outcome_has_a_colour() -> None:
    """A distinct one that the report's style defines for light and dark pages."""
    dropped = ["own_filter", *(r.name for r in filters.REASONS if r is not UNREADABLE)]
    samples = {"in": 0, "kept": 0, "dropped": dict.fromkeys(dropped, 0), "unreadable": 0}
    page = report.render(summary_of(samples=samples), charts.Histogram((), (), 0.9), [], [], [])
    classes = re.findall(r'class="c-([^"]+)" width="100%"', page)
    assert len(classes) == len(dropped) + 2 and len(set(classes)) >= len(BUILTIN) + 2
    style = html.fill("style.css.j2")
    palette = [f"filter-{number}" for number in range(report.PALETTE)]
    for name in {*classes, *palette}:
        assert f".c-{name} {{ fill: var(--{name}); }}" in style
        assert style.count(f"--{name}: #") == 2
    for reason in filters.REASONS:
        assert reason.label in page and reason.meaning in page
