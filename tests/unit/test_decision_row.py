"""`Decision` has the fields of the decision tables."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from made_core.output.decision_row import Decision
from made_core.output.decision_tables import SCHEMA


def test_fields_are_the_columns() -> None:
    assert [field.name for field in fields(Decision)] == SCHEMA.names


def test_from_row() -> None:
    row = {**dict.fromkeys(SCHEMA.names), "uid": "a", "shard": "00000", "key": "1", "row": 1, "kept": True}
    assert asdict(Decision.from_row(row)) == row
    assert Decision.from_row({**row, "column_of_another_version": 1}) == Decision.from_row(row)
    del row["kept"]
    with pytest.raises(KeyError, match="kept"):
        Decision.from_row(row)
