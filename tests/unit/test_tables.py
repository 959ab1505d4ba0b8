"""The tables of a shard: its metadata and additional ones, read by name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made_core.corpus import corpus as corpora
from made_core.corpus import tables
from made_core.embed import metadata
from made_core.errors import DamagedFile, RecipeError
from made_core.io import files
from made_core.types import FileRef, Shard
from tests.support.factories import put_embedded


@pytest.fixture
def part(tmp_path: Path) -> corpora.Part:
    """A shard of three samples."""
    records = [{"row": n, "key": str(n), "uid": f"u{n}", "width": 10 * n} for n in range(3)]
    table = pa.Table.from_pylist(records, schema=metadata.SCHEMA)
    output = put_embedded(str(tmp_path / "x"), np.ones((3, 4), np.float16), table)
    shard = Shard("00000", "in/00000.tar", "0" * 32, 1, None)
    return corpora.Part(shard, 0, 3, output.rows, output.metadata)


def score(folder: Path, values: list[float]) -> FileRef:
    """A table with one column."""
    table = pa.table({"value": values})
    return files.put(str(folder / f"{len(values)}.parquet"), partial(pq.write_table, table))


def test_columns_of_several_tables(part: corpora.Part, tmp_path: Path) -> None:
    corpus = corpora.build([part])
    scored = corpus.with_table("score", {"0" * 32: score(tmp_path, [0.5, 1.5, 2.5])})
    found = tables.read(scored.parts[0], ["width", "score.value", "key"])
    assert set(found.column_names) == {"width", "key", "score.value"}
    assert found["score.value"].to_pylist() == [0.5, 1.5, 2.5] and found["width"].to_pylist() == [0, 10, 20]
    assert scored.key == corpus.key, "a further table does not cluster anything again"
    assert scored.tables_key != corpus.tables_key
    ref = corpora.put(str(tmp_path / "corpora"), scored)
    assert corpora.read(ref) == scored


def test_a_missing_table(part: corpora.Part) -> None:
    with pytest.raises(RecipeError, match=r"score\.value: shard 00000 has no table score; its tables: none"):
        tables.read(part, ["score.value"])


def test_a_table_of_another_length(part: corpora.Part, tmp_path: Path) -> None:
    short = replace(part, tables={"score": score(tmp_path, [1.0])})
    with pytest.raises(DamagedFile, match="has 1 rows, but shard 00000 has 3 samples"):
        tables.read(short, ["score.value"])
