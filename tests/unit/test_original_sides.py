"""The sides before img2dataset resized: the json's where it has both, else the stored image's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from made_core import filters
from made_core.corpus import corpus as corpora
from made_core.corpus import original_sides, tables
from made_core.embed import metadata
from made_core.recipe import Filters
from made_core.types import Shard
from tests.support.factories import put_embedded


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ('{"original_width": 1500, "original_height": 500}', [1500, 500]),
        ('{"original_width": "900", "original_height": 900}', [512, 171]),
        ('{"original_width": 4000}', [512, 171]),
        ('{"original_width": 4000, "original_height": 0}', [512, 171]),
        ('{"original_width": -4, "original_height": -4}', [512, 171]),
        ('{"original_width": 1e300, "original_height": 1e300}', [512, 171]),
        ("{}", [512, 171]),
        (None, [512, 171]),
    ],
)
def test_the_json_precedes_where_it_has_both_sides(text: str | None, sides: list[int]) -> None:
    assert original_sides.of([512], [171], [text]).tolist() == [sides]


def test_an_unreadable_image_has_none() -> None:
    assert original_sides.of([None], [None], [None]).tolist() == [[0, 0]]
    assert original_sides.of([], [], []).shape == (0, 2)


def part(folder: Path, sizes: list[tuple[int, int]], texts: list[str | None]) -> corpora.Part:
    """A shard whose stored images have these sizes."""
    records = [
        {"row": n, "key": str(n), "uid": f"u{n}", "width": w, "height": h, "json": text}
        for n, ((w, h), text) in enumerate(zip(sizes, texts, strict=True))
    ]
    table = pa.Table.from_pylist(records, schema=metadata.SCHEMA)
    output = put_embedded(str(folder / "x"), np.ones((len(sizes), 4), np.float16), table)
    shard = Shard("00000", "in/00000.tar", "0" * 32, 1, None)
    return corpora.Part(shard, 0, len(sizes), output.rows, output.metadata)


def test_filters_judge_the_original(tmp_path: Path) -> None:
    """As DataComp's do: stored at 512 by the longer side, an image of 1500 x 500 is 512 x 171."""
    found = part(
        tmp_path,
        [(512, 171), (512, 171), (224, 224), (224, 224)],
        [
            '{"original_width": 1500, "original_height": 500}',
            None,
            '{"original_width": 1501, "original_height": 500}',  # cropped to its centre
            '{"original_width": 190, "original_height": 190}',  # enlarged
        ],
    )
    bounds = Filters(min_side=200, max_aspect=3)
    table = tables.read(found, filters.columns(bounds))
    assert table.column_names == filters.columns(bounds)
    codes = filters.apply(table, bounds)
    assert filters.names(codes) == [None, "small_side", "aspect_ratio", "small_side"]
