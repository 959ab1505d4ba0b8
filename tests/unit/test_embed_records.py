"""The record of a sample: uid, caption, json, and what was wrong with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from made_core.embed import encoder
from made_core.errors import CorruptShard
from tests.support.embedding import ONE, record
from tests.support.factories import (
    embed_whole,
    encoded_image,
    make_shard,
    members,
    shard_of,
    tar_bytes,
)


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


@pytest.mark.parametrize(("uid", "expected"), [(12, "12"), (0, "0"), (1.5, "1.5"), ("a\ud800", "a\\ud800")])
def test_odd_uids(tmp_path: Path, builtin: encoder.Encoder, uid: object, expected: str) -> None:
    assert record(tmp_path, members(0, uid=uid), builtin)["uid"] == expected


@pytest.mark.parametrize(
    ("uid", "warning"),
    [
        ("é" * 64, None),
        ("é" * 64 + "x", "uid has 129 bytes, allowed: up to 128; a derived uid is used"),
        ("x" * 20_000, "uid has 20000 bytes, allowed: up to 128; a derived uid is used"),
        ("a\0", "uid has a zero byte; a derived uid is used"),
        (float("nan"), "uid NaN is not a text or a number; a derived uid is used"),
        (True, "uid true is not a text or a number; a derived uid is used"),
        (["a"], 'uid ["a"] is not a text or a number; a derived uid is used'),
    ],
)
def test_uids_that_cannot_be_stored(
    tmp_path: Path, builtin: encoder.Encoder, uid: object, warning: str | None
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
        ({"json": b"[" * 90 + b'"' + b'\\"' * 200_000 + b"[" * 90}, "json: ", {"json": None}),
        (
            {"json": b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}"},
            "json: nested deeper than 100",
            {"json": None, "url": None},
        ),
        ({"json": b'{"url": "x", "a": ' + b"[" * 99 + b"]" * 99 + b"}"}, None, {"url": "x"}),
        (
            {"json": b'{"url": "x", "a": ["' + b'\\"[{' * 200 + b'", ' + b"[], " * 200 + b"0]}"},
            None,
            {"url": "x"},
        ),
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
