"""Embeds samples in one call, for tests of what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from made_core.embed import encoder
from made_core.embed.embed import Limits
from made_core.vectors import Rows
from tests.support.factories import (
    embed_whole,
    make_shard,
)

LIMIT = 1_000_000
BATCH = 4
ONE = Limits(LIMIT, threads=1, ahead=1)

Embedded = tuple[Rows, pa.Table]
Samples = list[tuple[str, dict[str, bytes]]]


def embed(folder: Path, samples: Samples, by: encoder.Encoder, threads: int = 2) -> Embedded:
    """The rows and records of samples."""
    tar = make_shard(folder, "00000", samples)
    found = embed_whole(tar, by, Limits(LIMIT, threads, 2 * BATCH))
    assert found.stray == 0
    return found.rows, found.table


def record(folder: Path, sample: dict[str, bytes], by: encoder.Encoder) -> dict[str, object]:
    """The record of one sample."""
    rows, table = embed(folder, [("k", sample)], by)
    found: dict[str, object] = table.to_pylist()[0]
    assert len(table) == 1
    assert bool(rows.any()) == (found["error"] is None)
    return found
