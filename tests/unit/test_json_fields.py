"""Numbers of stored jsons: arrow's reader and json's give the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core.corpus import json_fields
from made_core.corpus.json_fields import numbers

NAMES = ("a", "é b")
LEAVES = (
    st.floats()
    | st.integers()
    | st.integers(2**62, 2**70)
    | st.just(10**400)
    | st.none()
    | st.booleans()
    | st.text()
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)


def expected(texts: list[str | None]) -> list[list[float]]:
    """By the json module, one field at a time."""

    def number(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return float("nan")
        return float("nan") if isinstance(value, int) and abs(value) > 10**399 else float(value)

    return [[number(json.loads(text or "{}").get(name)) for name in NAMES] for text in texts]


@given(st.lists(st.dictionaries(st.sampled_from((*NAMES, "c")), LEAVES | st.lists(LEAVES), max_size=3)))
def test_any_field(samples: list[dict[str, Any]]) -> None:
    """Of any type, one that arrow refuses among them."""
    texts: list[str | None] = [None, *(json.dumps(s, ensure_ascii=len(s) % 2 == 0) for s in samples)]
    np.testing.assert_array_equal(numbers(texts, NAMES), expected(texts))


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), NUMBERS), min_size=1))
def test_arrow_reads_numbers_as_python_does(samples: list[dict[str, Any]]) -> None:
    """Rounded to the same double."""
    texts: list[str | None] = [json.dumps(s) for s in samples]
    np.testing.assert_array_equal(json_fields._by_arrow(texts, NAMES), expected(texts))


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": 1e400}', '{"c": "\\ud800", "a": 3}', '{"c": 1e999, "a": 4}', '{"a": "5"}'],
)
def test_what_arrow_refuses(text: str) -> None:
    """These jsons are valid for Python: their neighbours keep their numbers too."""
    with pytest.raises(pa.ArrowInvalid):
        json_fields._by_arrow([text], NAMES)
    texts = [text, '{"a": 7}', None]
    np.testing.assert_array_equal(numbers(texts, NAMES), expected(texts))


def test_line_breaks_between_fields() -> None:
    text = json.dumps({"c": "two\nlines", "a": 1.5}, indent=2).replace("\n", "\r\n")
    np.testing.assert_array_equal(json_fields._by_arrow([text, text], ["a"]), [[1.5], [1.5]])


def test_one_that_arrow_refuses_changes_no_other_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_fields, "SLICE", 2)
    texts = ['{"a": 1}', None, '{"a": "x"}', '{"a": 4}', '{"a": 5}']
    np.testing.assert_array_equal(numbers(texts, ["a"]), [[1], [np.nan], [np.nan], [4], [5]])


def test_nothing() -> None:
    assert numbers([], NAMES).shape == (0, 2)
    assert np.isnan(numbers([None, "", "{}"], ["a"])).all()
