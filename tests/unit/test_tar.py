"""A tar is split and rebuilt byte for byte, and an incomplete tar is never read."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from made_core.ingest import tar as samples
from made_core.ingest.tar import Sample
from made_core.ingest.tar_headers import BLOCK
from tests.support.factories import members, tar_bytes
from tests.support.tars import FORMATS, as_pairs, held

KEYS = st.builds(
    "{}{}".format, st.sampled_from(["", "a.b/", "ü/" * 60]), st.text("aB9_- ü日", min_size=1, max_size=120)
)
SUFFIXES = st.text("aB9_-.", max_size=8)
CONTENTS = st.binary(max_size=1600) | st.integers(0, 3).map(lambda n: bytes(BLOCK * n))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, st.dictionaries(SUFFIXES, CONTENTS, min_size=1, max_size=4), max_size=6))
def test_round_trip(tar: Path, parts: dict[str, dict[str, bytes]]) -> None:
    given_samples = [Sample(key, "", found) for key, found in parts.items()]
    samples.write(tar, given_samples)
    first = tar.read_bytes()
    found = held(tar)
    assert as_pairs(found) == as_pairs(given_samples)
    assert [list(s.members) for s in found] == [list(s.members) for s in given_samples]
    assert [s.content_digest for s in found] == [s.content_digest for s in given_samples]
    samples.write(tar, found)
    assert tar.read_bytes() == first


def test_write_is_plain_and_reproducible(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_samples = [Sample(f"{i:08d}", "", members(i)) for i in range(3)]
    samples.write(tar, iter(given_samples))
    first = tar.read_bytes()
    monkeypatch.setattr("time.time", lambda: 4e9)
    samples.write(tar, given_samples)
    assert tar.read_bytes() == first
    with tarfile.open(tar) as plain:
        infos = plain.getmembers()
        assert [i.name for i in infos] == [f"{s.key}.{x}" for s in given_samples for x in s.members]
        assert {(i.mtime, i.uid, i.gid, i.uname, i.mode) for i in infos} == {(0, 0, 0, "", 0o444)}
        for info, data in zip(infos, (d for s in given_samples for d in s.members.values()), strict=True):
            member = plain.extractfile(info)
            assert member is not None
            assert member.read() == data


def test_a_sample_that_is_read_at_once_is_the_same_member_by_member(
    tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar.write_bytes(tar_bytes([("0.jpg", b"abc" * 999), ("0.txt", b""), ("1.jpg", b"d"), ("0.json", b"{}")]))
    at_once = as_pairs(held(tar))
    monkeypatch.setattr(samples, "AT_ONCE", 0)
    assert as_pairs(held(tar)) == at_once
    assert at_once[0] == ("0", {"jpg": b"abc" * 999, "txt": b"", "json": b"{}"})


def test_members_that_are_not_adjacent(tar: Path) -> None:
    tar.write_bytes(tar_bytes([("0.jpg", b"a"), ("1.jpg", b"b"), ("1.txt", b"c"), ("0.txt", b"d")]))
    assert as_pairs(held(tar)) == [("0", {"jpg": b"a", "txt": b"d"}), ("1", {"jpg": b"b", "txt": b"c"})]
    assert [e.row for e in samples.index(tar).entries] == [0, 1]


def test_a_repeated_key_is_two_samples(tar: Path) -> None:
    tar.write_bytes(tar_bytes([("0.jpg", b"a"), ("0.txt", b"b"), ("0.jpg", b"c"), ("0.txt", b"d")]))
    assert as_pairs(held(tar)) == [("0", {"jpg": b"a", "txt": b"b"}), ("0", {"jpg": b"c", "txt": b"d"})]


def test_suffixes_that_differ_in_case_are_of_one_sample(tar: Path) -> None:
    """Both members are copied; the first in the tar is its image."""
    tar.write_bytes(tar_bytes([("0.JPG", b"a"), ("0.jpg", b"b"), ("0.txt", b"c")]))
    [found] = held(tar)
    assert found.members == {"JPG": b"a", "jpg": b"b", "txt": b"c"} and found.image == b"a"


def test_strays_are_counted(tar: Path) -> None:
    with tarfile.open(tar, "w") as packed:
        folder = tarfile.TarInfo("folder.d")
        folder.type = tarfile.DIRTYPE
        packed.addfile(folder)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("0.png")
            link.type, link.linkname = kind, "0.jpg"
            link.size = 10**9 if kind == tarfile.LNKTYPE else 0  # meaningless, but some tools write it
            packed.addfile(link)
        for name in ("README", ".hidden", "a/b"):
            packed.addfile(tarfile.TarInfo(name))
        packed.addfile(tarfile.TarInfo("0.jpg"))
    found = samples.index(tar)
    assert found.stray == 6
    assert [(e.key, [m.suffix for m in e.members]) for e in found.entries] == [("0", ["jpg"])]


def test_a_tar_without_samples(tar: Path) -> None:
    tar.write_bytes(tar_bytes([("README", b"x")]))
    assert samples.index(tar) == samples.Index((), 1)
    tar.write_bytes(bytes(2 * BLOCK))
    assert samples.index(tar) == samples.Index((), 0)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("key", ["k" * 150, "ü" * 80, "日本" * 60, "dir.d/" * 30 + "key", "a b'\"\\"])
def test_long_and_non_ascii_names(tar: Path, key: str, format: int) -> None:
    tar.write_bytes(tar_bytes([(f"{key}.jpg", b"a" * 600), (f"{key}.txt", b"b")], format))
    found = held(tar)
    assert as_pairs(found) == [(key, {"jpg": b"a" * 600, "txt": b"b"})]
    samples.write(tar, found)
    assert as_pairs(held(tar)) == as_pairs(found)


def test_names_that_are_not_text(tar: Path) -> None:
    name = b"\xff\xfe.jpg".decode("utf-8", "surrogateescape")
    tar.write_bytes(tar_bytes([(name, b"a")]))
    found = held(tar)
    assert found[0].members == {"jpg": b"a"}
    samples.write(tar, found)
    assert b"\xff\xfe.jpg" in tar.read_bytes()


def test_suffixes_as_written(tar: Path) -> None:
    tar.write_bytes(tar_bytes([("0.JPG", b"a"), ("0.seg.png", b"b"), ("0.Txt", b"c"), ("0.", b"d")]))
    (found,) = held(tar)
    assert found.members == {"JPG": b"a", "seg.png": b"b", "Txt": b"c", "": b"d"}
    assert (found.image, found.get("txt"), found.get("json")) == (b"a", b"c", None)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "WEBP"])
def test_which_suffixes_are_images(suffix: str) -> None:
    assert Sample("0", "", {"txt": b"t", suffix: b"p"}).image == b"p"
    assert Sample("0", "", {"txt": b"t", f"seg.{suffix}": b"p"}).image is None


def test_of_several_images_it_is_the_one_that_open_clip_trains_on() -> None:
    """The order of the suffixes in its loader, `jpg;png;jpeg;webp`, not that of the tar."""
    order = ("jpg", "PNG", "jpeg", "webp")
    for first in range(len(order)):
        several = Sample("0", "", {suffix: suffix.encode() for suffix in reversed(order[first:])})
        assert several.image == order[first].encode()
        assert several.image_digest == several.digests[order[first]]


def test_content_depends_on_names_and_bytes() -> None:
    variants = [
        {"jpg": b"ab", "txt": b"c"},
        {"jpg": b"a", "txt": b"bc"},
        {"jpg": b"ab", "json": b"c"},
        {"txt": b"c", "jpg": b"ab"},
        {"jpg": b"ba", "txt": b"c"},
        {"jpg": b"ab"},
        {"jpg": b"abtxtc"},
        {"jpg": b"ab", "txt": b"c", "json": b""},
    ]
    digests = [Sample("0", "", v).content_digest for v in variants]
    assert len(set(digests)) == len(variants)
    assert all(len(d) == 16 for d in digests)
    assert Sample("1", "elsewhere", variants[0]).content_digest == digests[0]


@pytest.mark.parametrize("format", FORMATS)
def test_webdataset_reads_the_same(tmp_path: Path, format: int) -> None:
    files = [(f"{i:09d}.{s}", d) for i in range(5) for s, d in members(i).items()]
    files += [("sub/dir/0.JPG", b"x"), ("sub/dir/0.seg.PNG", b"y"), ("no-dot", b"z")]
    tar = tmp_path / "00000.tar"
    tar.write_bytes(tar_bytes(files, format))
    theirs = [
        (s["__key__"], s["__url__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in webdataset.WebDataset(str(tar), shardshuffle=False)
    ]
    ours = [(s.key, s.url, {k.lower(): v for k, v in s.members.items()}) for s in held(tar)]
    assert ours == theirs


def test_a_name_with_a_nul_byte_is_not_a_sample(tar: Path) -> None:
    """Rewritten, the name would end there and might equal another member's."""
    files = [("ü.jpg", b"a"), ("ü.jpg\0x", b"b"), ("ü\0.txt", b"c"), ("ü.txt", b"d")]
    tar.write_bytes(tar_bytes(files, tarfile.PAX_FORMAT))
    assert samples.index(tar).stray == 2
    assert as_pairs(held(tar)) == [("ü", {"jpg": b"a", "txt": b"d"})]
