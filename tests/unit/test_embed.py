"""Every sample of a shard gets a row and a record, and stored results are read back unchanged."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch

from made_core import recipe
from made_core.embed import embed as embedding
from made_core.embed import embedded, encoder, metadata
from made_core.embed.embed import Limits
from made_core.errors import CorruptShard, LeaseLost, StorageFailed
from made_core.ingest import tar
from made_core.vectors import unit64
from tests.support.embedding import BATCH, LIMIT, ONE, Samples, embed
from tests.support.factories import (
    embed_whole,
    encoded_image,
    make_shard,
    members,
    shard_of,
    tiny_open_clip,
)


@pytest.fixture(scope="module", params=["perceptual", "tiny"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> encoder.Encoder:
    """An encoder of either kind, with small batches."""
    fields = {"model": request.param, "device": "cpu", "batch_size": BATCH}
    if request.param == "tiny":
        config, checkpoint = tiny_open_clip(tmp_path_factory.mktemp("tiny"))
        fields |= {"config": str(config), "pretrained": str(checkpoint)}
    return encoder.load(encoder.resolve(recipe.Encoder(**fields)))


@pytest.mark.parametrize("n", [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 2])
def test_a_row_for_every_sample(tmp_path: Path, loaded: encoder.Encoder, n: int) -> None:
    tar = make_shard(tmp_path, "00000", [(f"{i:03d}", members(i)) for i in range(n)])
    steps: list[int] = []
    found = embed_whole(tar, loaded, Limits(LIMIT, 3, 1), progress=steps.append)
    rows, table = found.rows, found.table
    assert rows.dtype == np.float16
    assert rows.shape == (n, loaded.encoding.dim)
    assert table.schema == metadata.SCHEMA
    assert table["row"].to_pylist() == list(range(n))
    assert table["key"].to_pylist() == [f"{i:03d}" for i in range(n)]
    assert table["error"].null_count == n
    assert np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1).max(initial=0) < 1e-3
    assert len({r.tobytes() for r in rows}) == n
    assert steps == [*range(BATCH, n, BATCH), *([n] if n else [])]
    assert found.stray == 0


def test_a_bad_image_does_not_affect_its_neighbours(tmp_path: Path, loaded: encoder.Encoder) -> None:
    good: Samples = [(f"{i}", members(i)) for i in range(9)]
    bad = {
        1: {"jpg": b""},
        2: {"jpg": encoded_image(2)[:200]},
        3: {"txt": b"no image"},
        4: {"jpg": b"<html>"},
        5: {"png": encoded_image(0, (1001, 1000), "PNG")},
        8: {"mp4": b"x", "json": b"{}"},
    }
    mixed: Samples = [(key, bad.get(i, parts)) for i, (key, parts) in enumerate(good)]
    whole, _ = embed(tmp_path / "good", good, loaded)
    rows, table = embed(tmp_path / "mixed", mixed, loaded)
    errors = table["error"].to_pylist()
    for i in range(9):
        if i in bad:
            assert errors[i]
            assert not rows[i].any()
        else:
            assert errors[i] is None
            assert (rows[i] == whole[i]).all()
    assert "0 bytes" in errors[1]
    assert errors[3] == "no image among its members: txt"
    assert "1001 x 1000" in errors[5]
    assert errors[8] == "no image among its members: mp4, json"
    assert [w is None for w in table["width"].to_pylist()] == [i in bad for i in range(9)]
    assert [p is None for p in table["image_digest"].to_pylist()] == [i in (3, 8) for i in range(9)]
    assert table["content_digest"].null_count == 0


def test_only_bad_images(tmp_path: Path, loaded: encoder.Encoder) -> None:
    rows, table = embed(tmp_path, [(f"{i}", {"jpg": b"x"}) for i in range(BATCH + 1)], loaded)
    assert not rows.any()
    assert table["error"].null_count == 0


def test_equal_bytes_have_equal_rows_at_any_position(tmp_path: Path, loaded: encoder.Encoder) -> None:
    samples: Samples = [(f"{i}", members(i)) for i in range(3 * BATCH + 1)]
    for place in (0, 5, 6, 11, 12):
        samples[place] = (f"{place}", members(99))
    rows, table = embed(tmp_path / "a", samples, loaded, threads=4)
    again, _ = embed(tmp_path / "b", [("k", members(99))], loaded, threads=1)
    for place in (0, 5, 6, 11, 12):
        assert (rows[place] == again[0]).all()
        assert table["image_digest"][place] == table["image_digest"][0]
    assert len(set(table["image_digest"].to_pylist())) == 3 * BATCH + 1 - 4


def test_threads_change_nothing(tmp_path: Path, loaded: encoder.Encoder) -> None:
    samples: Samples = [(f"{i}", members(i)) for i in range(11)]
    first, table = embed(tmp_path, samples, loaded, threads=1)
    second, other = embed(tmp_path, samples, loaded, threads=7)
    assert (first == second).all()
    assert table == other


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_an_encoder_that_returns_an_invalid_vector(
    tmp_path: Path, builtin: encoder.Encoder, bad: float
) -> None:
    def forward(pixels: torch.Tensor) -> torch.Tensor:
        rows = builtin.forward(pixels)
        rows[2] = bad
        return rows

    rows, table = embed(
        tmp_path, [(f"{i}", members(i)) for i in range(BATCH)], replace(builtin, forward=forward)
    )
    assert [bool(r.any()) for r in rows] == [True, True, False, True]
    assert np.isfinite(rows).all()
    assert table["error"].to_pylist() == [None, None, "its embedding is zero or not finite", None]


def test_unit64() -> None:
    rows = np.array([[3, 4], [0.1, 0], [-6e-8, 0]], np.float16)
    assert np.allclose(unit64(rows), np.array([[0.6, 0.8], [1, 0], [-1, 0]]), atol=1e-3)
    assert np.abs(np.linalg.norm(unit64(rows), axis=1) - 1).max() < 1e-15
    assert unit64(rows).dtype == np.float64


@pytest.mark.parametrize("ahead", [1, BATCH, 3 * BATCH])
def test_samples_ahead_of_the_model_are_bounded(
    tmp_path: Path, builtin: encoder.Encoder, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    n, started = 10 * BATCH, []
    load = tar.load

    def spy(descriptor: int, entry: tar.Entry, url: str) -> tar.Sample:
        started.append(entry.row)
        return load(descriptor, entry, url)

    monkeypatch.setattr(tar, "load", spy)
    monkeypatch.setattr(embedding, "WRITTEN", 1)
    path = make_shard(tmp_path, "0", [(f"{i:03d}", members(i)) for i in range(n)])
    found = embedding.embed(path, shard_of(path), builtin, Limits(LIMIT, 3, ahead), lambda _: None)
    taken = batches = 0
    for batch in found.batches:
        taken += len(batch.rows)
        batches += 1
        assert len(started) <= min(n, taken + max(ahead, embedding.AHEAD * BATCH))
    assert (taken, batches, sorted(started)) == (n, 10, list(range(n)))


def test_equal_files_whatever_the_threads(
    tmp_path: Path, builtin: encoder.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "GROUP", 2 * BATCH + 1)
    path = make_shard(tmp_path, "0", [(f"{i:03d}", members(i)) for i in range(5 * BATCH + 1)])
    digests = set()
    for number, limits in enumerate([Limits(LIMIT, 1, 1), Limits(LIMIT, 4, 7), Limits(LIMIT, 2, 1000)]):
        found = embedding.embed(path, shard_of(path), builtin, limits, lambda _: None)
        output = embedded.put(str(tmp_path / f"{number}" / "x"), found)
        digests.add((output.rows.digest, output.metadata.digest))
        whole = embed_whole(path, builtin, limits)
        assert (metadata.read_rows(output.rows) == whole.rows).all()
        assert metadata.read_table(output.metadata, metadata.SCHEMA.names) == whole.table
    assert len(digests) == 1


def test_a_lost_lease_ends_the_work(tmp_path: Path, builtin: encoder.Encoder) -> None:
    """Nothing is left: no file, no thread."""
    path = make_shard(tmp_path / "in", "0", [(f"{i:03d}", members(i)) for i in range(5 * BATCH)])

    def lost(done: int) -> None:
        if done > BATCH:
            raise LeaseLost("embed x")

    before = threading.active_count()
    found = embedding.embed(path, shard_of(path), builtin, Limits(LIMIT, 3, BATCH), lost)
    with pytest.raises(LeaseLost):
        embedded.put(str(tmp_path / "out" / "x"), found)
    assert threading.active_count() == before
    assert not list((tmp_path / "out").iterdir())


def test_no_thread_goes_on_when_a_write_fails(
    tmp_path: Path, builtin: encoder.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads, its tar and its batches would stay until Python's garbage collection."""
    path = make_shard(tmp_path, "0", [(f"{i:04d}", members(i)) for i in range(2 * embedded.GROUP // 16)])
    monkeypatch.setattr(embedded, "GROUP", 16)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    found = embedding.embed(path, shard_of(path), builtin, Limits(LIMIT, 3, BATCH), lambda _: None)
    with pytest.raises(StorageFailed, match="No space left"):
        embedded.put(str(tmp_path / "out" / "x"), found)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_a_tar_that_becomes_shorter(tmp_path: Path, builtin: encoder.Encoder) -> None:
    path = make_shard(tmp_path, "0", [(f"{i:03d}", members(i)) for i in range(5 * BATCH)])
    found = embedding.embed(path, shard_of(path), builtin, ONE, lambda _: None)
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(CorruptShard, match="ends inside"):
        list(found.batches)


class Queued:
    """An encoder that takes a batch while it has one, and computes it when its rows are taken."""

    queue = 1

    def __init__(self, real: encoder.Encoder) -> None:
        self.encoding, self.to_pixels, self.room = real.encoding, real.to_pixels, real.room
        self.real, self.waiting, self.most = real, 0, 0

    def start(self, images: torch.Tensor) -> encoder.Pending:
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def rows() -> npt.NDArray[np.float32]:
            self.waiting -= 1
            return self.real.start(images)()

        return rows


def test_a_batch_is_unchanged_until_its_rows_are_taken(tmp_path: Path, builtin: encoder.Encoder) -> None:
    path = make_shard(tmp_path, "0", [(f"{i:03d}", members(i)) for i in range(9 * BATCH + 1)])
    queued = Queued(builtin)
    found = embed_whole(path, cast(encoder.Encoder, queued), Limits(LIMIT, 3, 1))
    expected = embed_whole(path, builtin, Limits(LIMIT, 3, 1))
    assert (found.rows == expected.rows).all()
    assert found.table == expected.table
    assert (queued.most, queued.waiting) == (2, 0)
