"""The tables of an embedded shard: its metadata, and further tables that later stages add."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from made_core.corpus import clip_scores, original_sides
from made_core.corpus.corpus import Part
from made_core.embed import metadata
from made_core.errors import DamagedFile, RecipeError
from made_core.io import stored

SIZES = ("width", "height", "json")  # what original sides are computed from
DERIVED = (clip_scores.COLUMN, *original_sides.COLUMNS)


def read(part: Part, columns: Sequence[str]) -> pa.Table:
    """Columns of a part, one row for EVERY sample in tar order.

    Args:
        columns: of the metadata (embed.metadata.SCHEMA), or `<table>.<column>` of a further table;
            `clip_score`, the computed one where the run embedded captions, else the json's; and
            `original_width` and `original_height`, the json's, else those of the stored image.

    Raises:
        DamagedFile: a stored file is missing, damaged or has another number of rows.
        RecipeError: the part has no such table.
    """
    if any(name in DERIVED for name in columns):
        return _derived(part, columns)
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


def _derived(part: Part, columns: Sequence[str]) -> pa.Table:
    """`read`, with columns that are computed from stored ones."""
    scores = f"{clip_scores.TABLE}.{clip_scores.COLUMN}" if clip_scores.TABLE in part.tables else "json"
    sources = {clip_scores.COLUMN: (scores,)} | dict.fromkeys(original_sides.COLUMNS, SIZES)
    stored_ = [source for name in columns for source in sources.get(name, (name,))]
    found = read(part, list(dict.fromkeys(stored_)))
    if clip_scores.COLUMN in columns:
        values = found[scores]
        if scores == "json":
            values = pa.chunked_array([pa.array(clip_scores.of_json(values.to_pylist()), from_pandas=True)])
        found = found.append_column(clip_scores.COLUMN, values)
    if any(name in original_sides.COLUMNS for name in columns):
        sides = original_sides.of(*(found[name].to_pylist() for name in SIZES))
        for name, values in zip(original_sides.COLUMNS, sides.T, strict=True):
            found = found.append_column(name, pa.array(values))
    return found.select(columns)
