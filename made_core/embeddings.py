"""Embeddings and per-sample metadata of one shard: made from a tar, put in the store, read again.

Two files a shard: `.npy`, float16 unit rows in tar order, one for EVERY sample (an unreadable
sample's is zero), and `.parquet`, the metadata of the same rows with the errors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from made_core import files, samples
from made_core.arrays import put_array, read_array
from made_core.data import FileRef, Shard
from made_core.errors import BadPicture
from made_core.preprocess import decode

if TYPE_CHECKING:  # it imports torch, which a reader of embeddings need not
    from made_core.encoder import Encoder

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),  # place in the tar, 0 first
        ("key", pa.string()),
        ("uid", pa.string()),  # the json's, else 128 bits of a hash over (shard, row), as hex
        ("error", pa.string()),  # why it is unreadable; null: it has an embedding
        ("warning", pa.string()),  # what is wrong with json or txt; the sample is used all the same
        ("picture", pa.binary(16)),  # blake2b-128 of the picture's bytes
        ("content", pa.binary(16)),  # blake2b-128 of all members, checked again when written
        ("width", pa.int32()),  # of the decoded picture, pixels
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("url", pa.string()),  # where img2dataset got it
        ("json", pa.string()),  # as found
    ]
)
Rows = npt.NDArray[np.float16]
MAX_UID = 128  # bytes of UTF-8: the catalog holds all uids at the width of the longest


@dataclass
class _Prepared:
    record: dict[str, Any]
    pixels: Tensor | None


def embed(
    path: Path,
    shard: Shard,
    encoder: Encoder,
    max_pixels: int,
    threads: int,
    progress: Callable[[int], None],
) -> tuple[Rows, pa.Table, int]:
    """A shard's ((n, dim) float16 unit rows, metadata of `SCHEMA`, stray members).

    One bad picture never costs its neighbours: its row is zero and its record says why.
    `progress` is called with the samples done so far.

    Raises:
        CorruptShard: no whole tar.
    """
    held = samples.index(path)
    n = len(held.entries)
    rows: Rows = np.zeros((n, encoder.encoding.dim), np.float16)
    records: list[dict[str, Any]] = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:

            def prepare(entry: samples.Entry) -> _Prepared:
                return _prepare(samples.load(descriptor, entry, shard.url), entry, shard, encoder,
                                max_pixels)  # fmt: skip

            for batch in _ahead(pool, prepare, held.entries, encoder.encoding.batch_size):
                _encode(batch, encoder, rows[len(records) : len(records) + len(batch)])
                records.extend(p.record for p in batch)
                progress(len(records))
    finally:
        os.close(descriptor)
    return rows, pa.Table.from_pylist(records, schema=SCHEMA), held.stray


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[samples.Entry], _Prepared],
    entries: Sequence[samples.Entry],
    size: int,
) -> Iterator[list[_Prepared]]:
    """Batches in order, the next one being prepared while the caller uses this one."""
    waiting: list[Future[_Prepared]] = []
    for start in range(0, len(entries), size):
        batch, waiting = waiting, [pool.submit(prepare, e) for e in entries[start : start + size]]
        if batch:
            yield [f.result() for f in batch]
    if waiting:
        yield [f.result() for f in waiting]


def _prepare(
    sample: samples.Sample, entry: samples.Entry, shard: Shard, encoder: Encoder, max_pixels: int
) -> _Prepared:
    record = _record(sample, entry, shard)
    data = sample.picture
    if data is None:
        record["error"] = _valid(f"no picture among its members: {', '.join(sample.members)}")
        return _Prepared(record, None)
    record["picture"] = hashlib.blake2b(data, digest_size=16).digest()
    try:
        picture = decode(data, max_pixels)
    except BadPicture as error:
        record["error"] = str(error)
        return _Prepared(record, None)
    record["width"], record["height"] = picture.size
    return _Prepared(record, encoder.to_pixels(picture))


def _record(sample: samples.Sample, entry: samples.Entry, shard: Shard) -> dict[str, Any]:
    warnings: list[str] = []
    fields: dict[str, Any] = {}
    text = _text(sample.get("json"), "json", warnings)
    if text is not None:
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            warnings.append(f"json: {error}")
            fields, text = {}, None
    caption = _text(sample.get("txt"), "txt", warnings)
    if caption is None and isinstance(fields.get("caption"), str):
        caption = fields["caption"]
    uid = _uid(fields.get("uid"), warnings) or derived_uid(shard.fingerprint, entry)
    url = fields.get("url")
    return {
        "row": entry.row,
        "key": _valid(entry.key),
        "uid": uid,
        "error": None,
        "warning": "; ".join(warnings)[:500] or None,
        "picture": None,
        "content": sample.content,
        "width": None,
        "height": None,
        "caption": None if caption is None else _valid(caption),
        "url": _valid(url) if isinstance(url, str) else None,
        "json": text,
    }


def _uid(found: Any, warnings: list[str]) -> str | None:
    """The json's uid; None: it has none, or one that the catalog's byte strings cannot hold."""
    if found in (None, ""):
        return None
    uid = _valid(str(found))
    size = len(uid.encode())
    if size > MAX_UID or "\0" in uid:
        what = f"has {size} bytes, allowed: up to {MAX_UID}" if size > MAX_UID else "has a zero byte"
        warnings.append(f"uid {what}: one is derived")
        return None
    return uid


def derived_uid(fingerprint: str, entry: samples.Entry) -> str:
    """32 hex digits for a sample whose json names no uid: blake2b-128 of `<fingerprint>/<key>`.

    A key met again in the same tar has `#<row>` behind it: it is another sample.
    """
    name = f"{entry.key}#{entry.row}" if entry.is_repeat else entry.key
    text = f"{fingerprint}/{name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _text(data: bytes | None, what: str, warnings: list[str]) -> str | None:
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        warnings.append(f"{what} is no UTF-8: {error.reason} at byte {error.start}")
        return data.decode("utf-8", "replace")


def _valid(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 file can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _encode(batch: list[_Prepared], encoder: Encoder, out: Rows) -> None:
    places = [i for i, p in enumerate(batch) if p.pixels is not None]
    if not places:
        return
    vectors = encoder.encode([p.pixels for p in batch if p.pixels is not None])
    for place, vector in zip(places, vectors, strict=True):
        if np.isfinite(vector).all():
            out[place] = vector
        else:
            batch[place].record["error"] = "its embedding is zero or not finite"


def put(url: str, rows: Rows, table: pa.Table) -> tuple[FileRef, FileRef]:
    """Puts `<url>.npy` and `<url>.parquet`. Raises StorageFailed."""

    def write_table(path: Path) -> None:
        pq.write_table(table, path, compression="zstd")

    return put_array(f"{url}.npy", rows), files.put(f"{url}.parquet", write_table)


def read_rows(ref: FileRef) -> Rows:
    """(n, dim) float16, on disk. Raises DamagedFile."""
    rows: Rows = read_array(ref)
    return rows


def read_table(ref: FileRef, columns: Sequence[str]) -> pa.Table:
    """The metadata's `columns`. Raises DamagedFile."""
    with files.stored(ref) as path:
        return pq.read_table(path, columns=list(columns), memory_map=False)


def unit64(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Stored rows as THE vectors: float64, normalised in float64. Rows must not be zero."""
    wide = np.asarray(rows, np.float64)
    result: npt.NDArray[np.float64] = wide / np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return result
