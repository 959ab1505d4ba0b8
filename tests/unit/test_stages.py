"""Unit outputs are read back unchanged from the ledger's rows; a scope contains the stage's version."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from made_core.stages import (
    BY_NAME,
    EMBED,
    STAGES,
    EmbedOutput,
    OutputRow,
    Stage,
    TabulateOutput,
    from_row,
)
from made_core.types import Account, FileRef

REFS = st.builds(FileRef, st.text(), st.integers(0), st.text("0123456789abcdef", max_size=32), st.text())
KINDS: dict[object, st.SearchStrategy[Any]] = {
    FileRef: REFS,
    dict[str, FileRef]: st.dictionaries(st.text(), REFS, max_size=3),
    dict[str, Account]: st.dictionaries(
        st.text(), st.integers(0, 9).map(lambda n: Account(2 * n, n, {"few_words": n}, 0)), max_size=3
    ),
    tuple[int, ...]: st.lists(st.integers(0)).map(tuple),
    int: st.integers(0),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    int | None: st.none() | st.integers(0),
    float | None: st.none() | st.floats(allow_nan=False, allow_infinity=False),
}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@given(data=st.data())
def test_an_output_is_read_back_from_its_row(stage: Stage[Any], data: st.DataObject) -> None:
    hints = get_type_hints(stage.output)
    output = stage.output(**{f.name: data.draw(KINDS[hints[f.name]]) for f in fields(stage.output)})
    row = output.to_row()
    stored = OutputRow(row.samples, json.loads(json.dumps(row.files)), json.loads(json.dumps(row.counts)))
    assert from_row(stage.output, stored) == output
    assert row.files.keys() | row.counts.keys() | {"samples"} == {f.name for f in fields(stage.output)}
    assert not row.files.keys() & row.counts.keys()


def test_the_files_of_an_output() -> None:
    one, two = (FileRef(name, 1, "0" * 32, "0" * 8) for name in "ab")
    assert EmbedOutput(5, one, two, 0, 0, 0).refs == (one, two)
    assert TabulateOutput(5, {"x": two, "y": one}, {}, 0, 0, 0, 0).refs == (two, one)


def test_a_row_of_another_form_is_refused() -> None:
    with pytest.raises(ValidationError, match="metadata"):
        from_row(EmbedOutput, OutputRow(5, {}, {"unreadable": 0}))


def test_stages_are_distinct() -> None:
    assert list(BY_NAME.values()) == list(STAGES)
    places = {(stage.folder, stage.in_output) for stage in STAGES}
    assert len(places) == len(STAGES), "two stages would clean up each other's files"
    assert len({stage.scope("store") for stage in STAGES}) == len(STAGES)


def test_a_scope_contains_the_version() -> None:
    raised = replace(EMBED, version=EMBED.version + 1)
    assert raised.scope("store", [1]) != EMBED.scope("store", [1]) != EMBED.scope("store", [2])
    assert EMBED.scope("store", [1]) == EMBED.scope("store", [1])
