"""Reads, embeds and rewrites one case with the product's code and reports what is wrong."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from made_core import recipe
from made_core.embed import encoder, metadata
from made_core.embed.embed import Limits
from made_core.errors import CorruptShard
from made_core.ingest import tar
from made_core.ingest.tar import Sample
from tests.fuzz.cases import SAMPLES, Case, base, make
from tests.support.factories import embed_whole, put_embedded, tar_bytes

Row = tuple[bytes, dict[str, Any]]  # the embedding's bytes, the record
Outcome = dict[str, int]  # embedded, unreadable, refused -> how many

DEPENDS_ON_PLACE = ("row", "uid")  # of a record: the other fields depend only on key and members


class Wrong(AssertionError):
    """what made may not do"""


@cache
def loaded() -> encoder.Encoder:
    """The encoder of the cases, with small batches."""
    return encoder.load(encoder.resolve(recipe.Encoder(model="perceptual", device="cpu", batch_size=8)))


def judged(seed: int, number: int, folder: Path) -> Outcome:
    """`judge` for a box, by case number; a negative number is an undamaged tar. Uses one core."""
    torch.set_num_threads(1)
    if number < 0:
        return {"embedded": len(_expected(0, folder))}
    return judge(make(seed, number), folder)


def judge(case: Case, folder: Path) -> Outcome:
    """Embeds the case's tar in `folder`.

    Raises:
        Wrong: a sample without its row, a row that is neither a unit vector nor explained, an
            undamaged sample with another row than in the undamaged tar.
    """
    try:
        found = _embedded(case.tar, case.max_pixels, folder)
    except CorruptShard as error:
        _must(not case.readable, f"a readable tar is refused: {error}")
        return {"refused": 1}
    _must(case.readable is not False, "an incomplete tar is read")
    known = _expected(case.base, folder)
    by_key = {record["key"]: (vector, record) for vector, record in known.values()}
    seen = {record["key"]: (vector, record) for vector, record in found}
    for key in case.intact:
        _must(key in seen, f"{key} is not damaged but missing")
        _same(seen[key], by_key[key], less=("row",))
    for row in found:  # regardless of damage elsewhere: equal members give equal rows
        expected = known.get((row[1]["key"], row[1]["content_digest"]))
        if expected is not None:
            _same(row, expected, less=DEPENDS_ON_PLACE)
    if case.family == "images":
        _must([r["key"] for _, r in found] == list(by_key), "the order or the keys differ")
    unreadable = sum(record["error"] is not None for _, record in found)
    return {"embedded": len(found) - unreadable, "unreadable": unreadable}


@cache
def _expected(number: int, folder: Path) -> dict[tuple[str, bytes], Row]:
    rows = _embedded(tar_bytes(base(number)), 10**6, folder)
    _must(len(rows) == SAMPLES and all(r["error"] is None for _, r in rows), "the undamaged tar is refused")
    return {(record["key"], record["content_digest"]): (vector, record) for vector, record in rows}


def _embedded(data: bytes, max_pixels: int, folder: Path) -> list[Row]:
    path = folder / "00000.tar"
    path.write_bytes(data)
    found = embed_whole(path, loaded(), Limits(max_pixels, threads=1, ahead=8))
    rows, table = found.rows, found.table
    output = put_embedded(str(folder / "embedded"), rows, table)
    _must((metadata.read_rows(output.rows) == rows).all(), "the rows read differ from those written")
    _must(
        metadata.read_table(output.metadata, table.column_names) == table,
        "the records read differ from those written",
    )
    records = table.to_pylist()
    _must(rows.shape == (len(records), loaded().encoding.dim) and rows.dtype == np.float16, "rows amiss")
    for vector, record in zip(rows, records, strict=True):
        _explained(vector, record, max_pixels)
    _written_again(path, records)
    return [(vector.tobytes(), record) for vector, record in zip(rows, records, strict=True)]


def _explained(vector: Any, record: dict[str, Any], max_pixels: int) -> None:
    if record["error"] is None:
        length = float(np.linalg.norm(vector.astype(np.float64)))
        _must(abs(length - 1) < 1e-2, f"{record['key']}: a row of length {length}")
        pixels = record["width"] * record["height"]
        _must(pixels <= max_pixels, f"{record['key']}: {pixels} pixels, allowed: {max_pixels}")
    else:
        _must(not vector.any(), f"{record['key']}: an error ({record['error']}), and a row")


def _written_again(path: Path, records: list[dict[str, Any]]) -> None:
    """Every sample has a row and is copied to an output shard byte for byte."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        held = [tar.load(descriptor, e, "") for e in tar.index(path).entries]
    finally:
        os.close(descriptor)
    _must(
        [s.content_digest for s in held] == [r["content_digest"] for r in records],
        "rows and samples do not match",
    )
    copy = path.with_name("copy.tar")
    renamed = [Sample(f"{n:08d}", "", s.members) for n, s in enumerate(held)]
    tar.write(copy, renamed)
    descriptor = os.open(copy, os.O_RDONLY)
    try:
        again = [tar.load(descriptor, e, "") for e in tar.index(copy).entries]
    finally:
        os.close(descriptor)
    _must(again == renamed, "the rewritten samples differ")


def _same(row: Row, expected: Row, less: tuple[str, ...]) -> None:
    key = expected[1]["key"]
    _must(row[0] == expected[0], f"{key} is not damaged but has another embedding")
    for name in expected[1].keys() - set(less):
        _must(row[1][name] == expected[1][name], f"{key} is not damaged but has another {name}")


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)
