"""The tables of an embedded shard: its metadata, and further tables that later stages add."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from made_core.corpus import clip_scores
from made_core.corpus.corpus import Part
from made_core.embed import metadata
from made_core.errors import DamagedFile, RecipeError
from made_core.io import stored


def read(part: Part, columns: Sequence[str]) -> pa.Table:
    """Columns of a part, one row for EVERY sample in tar order.

    Args:
        columns: of the metadata (embed.metadata.SCHEMA), or `<table>.<column>` of a further table; and
            `clip_score`, the computed one where the run embedded captions, else the json's.

    Raises:
        DamagedFile: a stored file is missing, damaged or has another number of rows.
        RecipeError: the part has no such table.
    """
    if clip_scores.COLUMN in columns:
        return _with_scores(part, columns)
    own = [name for name in columns if "." not in name]
    result = metadata.read_table(part.metadata, own)
    for name in columns:
        table, dot, column = name.partition(".")
        if not dot:
            continue
        if table not in part.tables:
            known = ", ".join(sorted(part.tables)) or "none"
            raise RecipeError(f"{name}: shard {part.shard.id} has no table {table}; its tables: {known}")
        with stored.local(part.tables[table]) as path:
            values = pq.read_table(path, columns=[column])[column]
        if len(values) != part.samples:
            ref = part.tables[table]
            raise DamagedFile(
                f"{ref.path} has {len(values)} rows, but shard {part.shard.id} has {part.samples} samples"
            )
        result = result.append_column(name, values)
    return result


def _with_scores(part: Part, columns: Sequence[str]) -> pa.Table:
    others = [name for name in columns if name != clip_scores.COLUMN]
    source = f"{clip_scores.TABLE}.{clip_scores.COLUMN}" if clip_scores.TABLE in part.tables else "json"
    found = read(part, list(dict.fromkeys((*others, source))))
    scores = found[source]
    if source == "json":
        scores = pa.chunked_array([pa.array(clip_scores.of_json(scores.to_pylist()), from_pandas=True)])
    return found.select(others).append_column(clip_scores.COLUMN, scores)
