"""Every sample of a shard gets a row and a record, and stored results are read back unchanged."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from made_core import recipe
from made_core.embed import embed as embedding
from made_core.embed import embedded, encoder, metadata
from made_core.embed.embed import Limits
from made_core.errors import CorruptShard, DamagedFile, LeaseLost
from made_core.ingest import tar
from made_core.io import files
from made_core.types import FileRef
from made_core.vectors import Rows, unit64
from tests.support.factories import (
    embed_whole,
    encoded_image,
    make_shard,
    members,
    put_embedded,
    shard_of,
    tar_bytes,
    tiny_open_clip,
)

LIMIT = 1_000_000
BATCH = 4
ONE = Limits(LIMIT, threads=1, ahead=1)


@pytest.fixture(scope="module", params=["perceptual", "tiny"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> encoder.Encoder:
    """An encoder of either kind, with small batches."""
    fields = {"model": request.param, "device": "cpu", "batch_size": BATCH}
    if request.param == "tiny":
        config, checkpoint = tiny_open_clip(tmp_path_factory.mktemp("tiny"))
        fields |= {"config": str(config), "pretrained": str(checkpoint)}
    return encoder.load(encoder.resolve(recipe.Encoder(**fields)))


@pytest.fixture(scope="module")
def builtin() -> encoder.Encoder:
    """The encoder without weights."""
    return encoder.load(encoder.resolve(recipe.Encoder(device="cpu", batch_size=BATCH)))


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


def test_metadata(tmp_path: Path, builtin: encoder.Encoder) -> None:
    sample = members(7, "Ein Löwe", uid="u-7", width=5, height=5, score=0.5)
    found = record(tmp_path, sample, builtin)
    assert found["uid"] == "u-7"
    assert found["caption"] == "Ein Löwe"
    assert found["url"] == "http://localhost/7.jpg"
    assert (found["width"], found["height"]) == (64, 48)
    assert found["json"] == sample["json"].decode()
    assert found["image_digest"] == hashlib.blake2b(sample["jpg"], digest_size=16).digest()
    assert (found["error"], found["warning"]) == (None, None)


def test_derived_uids(tmp_path: Path, builtin: encoder.Encoder) -> None:
    """Without a uid in the json: stable, 128 bits, and different for a repeated key."""
    sample = members(0)
    parts = [(f"k.{s}", d) for s, d in sample.items()]
    tar = tmp_path / "0.tar"
    tar.write_bytes(
        tar_bytes([*parts, *parts, ("l.jpg", b""), ("m.json", b'{"uid": ""}'), ("n.json", b'{"uid": null}')])
    )

    def uids(fingerprint: str) -> list[str]:
        shard = shard_of(tar, fingerprint)
        found = embed_whole(tar, builtin, ONE, shard)
        uids: list[str] = found.table["uid"].to_pylist()
        return uids

    found = uids("a" * 32)
    assert uids("a" * 32) == found
    assert len(found) == 5
    assert not set(found) & set(uids("b" * 32))
    assert len(set(found)) == 5
    assert all(len(u) == 32 and int(u, 16) >= 0 for u in found)


@pytest.mark.parametrize(("uid", "expected"), [(12, "12"), (0, "0"), ("a\ud800", "a\\ud800"), (True, "True")])
def test_odd_uids(tmp_path: Path, builtin: encoder.Encoder, uid: object, expected: str) -> None:
    assert record(tmp_path, members(0, uid=uid), builtin)["uid"] == expected


@pytest.mark.parametrize(
    ("uid", "warning"),
    [
        ("é" * 64, None),
        ("é" * 64 + "x", "uid has 129 bytes, allowed: up to 128; a derived uid is used"),
        ("x" * 20_000, "uid has 20000 bytes, allowed: up to 128; a derived uid is used"),
        ("a\0", "uid has a zero byte; a derived uid is used"),
    ],
)
def test_uids_that_cannot_be_stored(
    tmp_path: Path, builtin: encoder.Encoder, uid: str, warning: str | None
) -> None:
    found = record(tmp_path, members(0, uid=uid), builtin)
    derived = record(tmp_path, members(0), builtin)["uid"]
    assert (found["uid"], found["warning"], found["error"]) == (derived if warning else uid, warning, None)


@pytest.mark.parametrize(
    ("change", "warned", "expected"),
    [
        ({"json": b"{"}, "json: ", {"json": None, "url": None, "caption": "a caption"}),
        ({"json": b"[1]"}, "json: not an object", {"json": None, "url": None}),
        ({"json": b"\xff{}"}, "json is not valid UTF-8: ", {"url": None}),
        ({"json": b"[" * 100_000}, "json: ", {"json": None}),
        ({"json": b'{"uid": ' + b"9" * 5000 + b"}"}, "json: ", {"json": None}),
        (
            {"txt": b"caf\xe9"},
            "txt is not valid UTF-8: ",
            {"caption": "caf\ufffd", "url": "http://localhost/0.jpg"},
        ),
        ({"txt": b"\xff", "json": b"x"}, "; ", {"caption": "\ufffd"}),
        ({"json": b'{"caption": "c\\ud800", "url": 5}'}, None, {"url": None, "caption": "a caption"}),
        ({"json": b'{"n": NaN, "url": "\\udfff"}'}, None, {"url": "\\udfff"}),
        ({"txt": b""}, None, {"caption": ""}),
    ],
)
def test_a_bad_json_or_caption_is_a_warning(
    tmp_path: Path,
    builtin: encoder.Encoder,
    change: dict[str, bytes],
    warned: str | None,
    expected: dict[str, object],
) -> None:
    found = record(tmp_path, members(0) | change, builtin)
    assert found["error"] is None
    if warned is None:
        assert found["warning"] is None
    else:
        assert warned in str(found["warning"])
        assert len(str(found["warning"])) <= 500
    assert {k: found[k] for k in expected} == expected


def test_missing_json_and_txt(tmp_path: Path, builtin: encoder.Encoder) -> None:
    found = record(tmp_path, {"webp": encoded_image(0, format="WEBP")}, builtin)
    assert (found["error"], found["warning"]) == (None, None)
    assert (found["caption"], found["url"], found["json"]) == (None, None, None)


@pytest.mark.parametrize("fields", [{"caption": "of the json"}, {"caption": 5}, {}])
def test_caption_of_the_json_without_a_txt(
    tmp_path: Path, builtin: encoder.Encoder, fields: dict[str, object]
) -> None:
    found = record(tmp_path, {"jpg": encoded_image(0), "json": json.dumps(fields).encode()}, builtin)
    assert found["caption"] == ("of the json" if fields.get("caption") == "of the json" else None)


def test_names_that_are_not_text(tmp_path: Path, builtin: encoder.Encoder) -> None:
    name = b"\xff.jp\xffg".decode("utf-8", "surrogateescape")
    tar = tmp_path / "0.tar"
    tar.write_bytes(tar_bytes([(name, b"x")]))
    table = embed_whole(tar, builtin, ONE).table
    assert table["key"].to_pylist() == ["\\udcff"]
    assert "no image among its members" in table["error"][0].as_py()


def test_strays_are_counted(tmp_path: Path, builtin: encoder.Encoder) -> None:
    tar = tmp_path / "0.tar"
    tar.write_bytes(tar_bytes([("README", b"x"), ("0.jpg", encoded_image(0)), (".x", b"")]))
    found = embed_whole(tar, builtin, ONE)
    assert (len(found.rows), len(found.table), found.stray) == (1, 1, 2)


def test_an_incomplete_tar(tmp_path: Path, builtin: encoder.Encoder) -> None:
    tar = make_shard(tmp_path, "0", [("0", members(0))])
    tar.write_bytes(tar.read_bytes()[:1024])
    with pytest.raises(CorruptShard):
        embed_whole(tar, builtin, ONE)


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


@pytest.fixture
def put(tmp_path: Path, builtin: encoder.Encoder) -> tuple[Embedded, FileRef, FileRef]:
    """A shard's embeddings and their files."""
    rows, table = embed(tmp_path, [(f"{i}", members(i, uid=f"{i}")) for i in range(6)], builtin)
    output = put_embedded(str(tmp_path / "store" / "x"), rows, table, stray=3)
    assert (output.samples, output.unreadable, output.warnings, output.stray) == (6, 0, 0, 3)
    return (rows, table), output.rows, output.metadata


def test_put_and_read(put: tuple[Embedded, FileRef, FileRef]) -> None:
    (rows, table), at_rows, at_table = put
    found = metadata.read_rows(at_rows)
    assert found.dtype == np.float16
    assert (found == rows).all()
    assert metadata.read_table(at_table, metadata.SCHEMA.names) == table
    assert metadata.read_table(at_table, ["uid", "row"]).column_names == ["uid", "row"]
    assert (Path(at_rows.path).name, Path(at_table.path).name) == ("x.npy", "x.parquet")


def flip(path: Path) -> None:
    """Changes a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Removes the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damage_is_detected(put: tuple[Embedded, FileRef, FileRef], damage: Callable[[Path], None]) -> None:
    _, at_rows, at_table = put
    for ref in (at_rows, at_table):
        damage(Path(ref.path))
    with pytest.raises(DamagedFile, match=r"x\.npy"):
        metadata.read_rows(at_rows)
    with pytest.raises(DamagedFile, match=r"x\.parquet"):
        metadata.read_table(at_table, ["uid"])


def test_unit64() -> None:
    rows = np.array([[3, 4], [0.1, 0], [-6e-8, 0]], np.float16)
    assert np.allclose(unit64(rows), np.array([[0.6, 0.8], [1, 0], [-1, 0]]), atol=1e-3)
    assert np.abs(np.linalg.norm(unit64(rows), axis=1) - 1).max() < 1e-15
    assert unit64(rows).dtype == np.float64


def test_a_remote_store(put: tuple[Embedded, FileRef, FileRef]) -> None:
    (rows, table), _, _ = put
    output = put_embedded("memory://store/y", rows, table)
    assert (metadata.read_rows(output.rows) == rows).all()
    assert metadata.read_table(output.metadata, metadata.SCHEMA.names) == table
    files.remove("memory://store")
    with pytest.raises(DamagedFile, match="is missing"):
        metadata.read_rows(output.rows)


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
    path = make_shard(tmp_path, "0", [(f"{i:03d}", members(i)) for i in range(n)])
    found = embedding.embed(path, shard_of(path), builtin, Limits(LIMIT, 3, ahead), lambda _: None)
    taken = 0
    for batch in found.batches:
        taken += len(batch.rows)
        assert len(started) <= min(n, taken + max(ahead, BATCH))
    assert (taken, sorted(started)) == (n, list(range(n)))


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


def test_a_tar_that_becomes_shorter(tmp_path: Path, builtin: encoder.Encoder) -> None:
    path = make_shard(tmp_path, "0", [(f"{i:03d}", members(i)) for i in range(5 * BATCH)])
    found = embedding.embed(path, shard_of(path), builtin, ONE, lambda _: None)
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(CorruptShard, match="ends inside"):
        list(found.batches)
