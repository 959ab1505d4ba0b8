"""Damaged and truncated tars: never read as whole, always a CorruptShard."""

from __future__ import annotations

import errno
import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from made_core.errors import CorruptShard, StorageFailed
from made_core.ingest import tar as samples
from made_core.ingest.tar_headers import BLOCK
from tests.support.factories import make_shard, members, tar_bytes
from tests.support.tars import FORMATS, as_pairs, held


def small_tar() -> tuple[bytes, int]:
    """(a tar whose data also has zero blocks, the offset of its end marker)."""
    files = [
        ("0.jpg", random.Random(1).randbytes(700)),
        ("0.txt", b""),
        ("1.jpg", bytes(2 * BLOCK)),
        ("1.json", b"{}" * 256),
        ("a-name-that-needs-a-header-of-its-own" * 4 + ".jpg", b"x" * 600 + bytes(BLOCK)),
    ]
    data = tar_bytes(files)
    return data, len(data.rstrip(b"\0")) + (-len(data.rstrip(b"\0"))) % BLOCK + BLOCK


def test_a_truncated_tar_is_never_read(tar: Path) -> None:
    data, end = small_tar()
    assert data[end - 2 * BLOCK : end - BLOCK].strip(b"\0")
    assert data[end:] == bytes(len(data) - end)
    tar.write_bytes(data)
    whole = as_pairs(held(tar))
    cuts = {*range(0, len(data), BLOCK), *range(1, len(data), BLOCK), *range(BLOCK - 1, len(data), BLOCK)}
    cuts |= set(random.Random(0).sample(range(len(data)), 600))
    for cut in sorted(cuts):
        tar.write_bytes(data[:cut])
        if cut >= end + BLOCK:
            assert as_pairs(held(tar)) == whole, cut
        else:
            with pytest.raises(CorruptShard):
                samples.index(tar)
                pytest.fail(f"cut at {cut} of {len(data)} reads as whole")


def test_truncations_that_other_readers_accept(tar: Path) -> None:
    """The reason for the check: tarfile and webdataset see a clean end at these cuts."""
    data, end = small_tar()
    misled = 0
    for cut in range(BLOCK, end, BLOCK):
        tar.write_bytes(data[:cut])
        try:
            with tarfile.open(tar) as plain:
                plain.getmembers()
            misled += 1
        except tarfile.TarError:
            pass
    assert misled >= 4


@pytest.mark.parametrize("format", FORMATS)
def test_real_looking_shard_truncated_at_random(tmp_path: Path, format: int) -> None:
    files = [(f"{i:09d}.{s}", d) for i in range(4) for s, d in members(i).items()]
    data = tar_bytes(files, format)
    end = len(data.rstrip(b"\0"))
    tar = tmp_path / "00000.tar"
    for cut in random.Random(format).sample(range(end), 150):
        tar.write_bytes(data[:cut])
        with pytest.raises(CorruptShard, match=r"00000\.tar"):
            samples.index(tar)


@pytest.mark.parametrize(
    "data",
    [b"", b"no tar at all", b"\xff" * 5000, b"<html>" * 500, b"\x1f\x8b\x08" + bytes(range(256)) * 8],
    ids=["empty", "short", "bytes", "html", "gzip"],
)
def test_a_file_that_is_not_a_tar(tar: Path, data: bytes) -> None:
    tar.write_bytes(data)
    with pytest.raises(CorruptShard, match=r"00000\.tar"):
        samples.index(tar)


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    """Its members cannot be read separately."""
    tar = tmp_path / "00000.tar"
    with tarfile.open(tar, "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("0.jpg"), io.BytesIO())
    with pytest.raises(CorruptShard):
        samples.index(tar)


def test_a_truncation_names_the_member(tar: Path) -> None:
    tar.write_bytes(tar_bytes([("0.jpg", b"0" * 600), ("1.jpg", b"1" * 600)])[: 4 * BLOCK])
    with pytest.raises(CorruptShard, match=r"cut off inside '1\.jpg'"):
        samples.index(tar)


@pytest.mark.parametrize("kind", [b"0", b"Z"], ids=["file", "unknown"])
@pytest.mark.parametrize("size", [-BLOCK, -2 * BLOCK, -10 * BLOCK])
def test_headers_that_point_back(tar: Path, size: int, kind: bytes) -> None:
    """A negative size makes a careless reader loop forever."""
    data = bytearray(tar_bytes([("0.jpg", b""), ("1.jpg", b"")]))
    header = data[BLOCK : 2 * BLOCK]
    header[156:157] = kind
    header[124:136] = (2**96 + size).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[BLOCK : 2 * BLOCK] = header
    tar.write_bytes(data)
    with pytest.raises(CorruptShard):
        samples.index(tar)


def test_a_negative_size(tar: Path) -> None:
    data = bytearray(tar_bytes([("0.jpg", b"")]))
    data[124:136] = b"\xff" * 12
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:BLOCK])
    tar.write_bytes(data)
    with pytest.raises(CorruptShard):
        samples.index(tar)


def test_garbage_between_members(tar: Path) -> None:
    first, second = tar_bytes([("0.jpg", b"0" * 600)]), tar_bytes([("1.jpg", b"1" * 600)])
    tar.write_bytes(first[: 3 * BLOCK] + b"\xa5" * BLOCK + second)
    with pytest.raises(CorruptShard, match="garbage"):
        samples.index(tar)


def test_a_damaged_header(tar: Path) -> None:
    data = bytearray(tar_bytes([(f"{i}.jpg", bytes([i]) * 600) for i in range(4)]))
    for at in {*range(3 * BLOCK, 4 * BLOCK)} - {3 * BLOCK + 155}:  # a space after the checksum
        broken = bytes(data[:at]) + bytes([data[at] ^ 0x15]) + bytes(data[at + 1 :])
        tar.write_bytes(broken)
        with pytest.raises(CorruptShard):
            samples.index(tar)


def test_any_damage_is_a_made_error_or_none(tar: Path) -> None:
    """No exception of another kind, no endless loop, no member beyond the file."""
    dice = random.Random(5)
    long = "directory/" * 12 + "name.jpg"
    data = tar_bytes([("0.jpg", b"0" * 100), (long, b"1" * 100), ("ü.txt", b"2")], tarfile.PAX_FORMAT)
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            broken[dice.randrange(len(data) // 2)] = dice.choice(
                [0, 0x20, 0x2D, 0x30, 0x37, 0x78, 0x80, 0xFF]
            )
        for at in range(
            0, len(broken), BLOCK
        ):  # corrected checksums, so that the damage is not caught by them
            broken[at + 148 : at + 156] = b" " * 8
            broken[at + 148 : at + 156] = b"%06o\0 " % sum(broken[at : at + BLOCK])
        broken[-2 * BLOCK :] = bytes(2 * BLOCK)
        tar.write_bytes(broken)
        try:
            found = samples.index(tar)
        except CorruptShard:
            continue
        assert all(m.offset + m.size <= len(broken) for e in found.entries for m in e.members)


def test_a_long_chain_of_headers(tar: Path) -> None:
    """Headers that only announce others, thousands deep."""
    one = tarfile.TarInfo("x").create_pax_global_header({"comment": "y"})
    tar.write_bytes(one * 3000 + tar_bytes([("0.jpg", b"0")]))
    with pytest.raises(CorruptShard):
        samples.index(tar)


@pytest.mark.parametrize("at_once", [0, samples.AT_ONCE])
def test_a_file_that_is_truncated_while_it_is_read(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "AT_ONCE", at_once)
    tar = make_shard(tmp_path, "00000", [("0", members(0)), ("1", members(1))])
    entries = samples.index(tar).entries
    os.truncate(tar, 2 * BLOCK)
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        with pytest.raises(CorruptShard, match=r"ends inside 1\.jpg"):
            samples.load(descriptor, entries[1], str(tar))
    finally:
        os.close(descriptor)


def header(name: bytes, kind: bytes, size: bytes) -> bytes:
    """A header block with these fields and a valid checksum."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0")).ljust(BLOCK, b"\0")
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize(
    "size", [b"77777777777", b"\x80" + b"\0" * 7 + b"\x7f\xff\xff\xff", b"\xff" * 10 + b"\xfe\0"]
)
def test_a_long_header_allocates_no_memory(tar: Path, kind: bytes, size: bytes) -> None:
    """A header with a huge or negative size is refused before a buffer is allocated."""
    tar.write_bytes(header(b"@long", kind, size) + tar_bytes([("0.jpg", b"0")]))
    with pytest.raises(CorruptShard, match="a header claims"):
        samples.index(tar)


def test_a_sparse_map_beyond_the_end(tar: Path) -> None:
    """tarfile's own IndexError."""
    old = bytearray(header(b"0.jpg", b"S", b"00000000000"))
    old[482] = 1  # the map continues in another block
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    tar.write_bytes(old)
    with pytest.raises(CorruptShard):
        samples.index(tar)


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EIO, StorageFailed), (errno.ESTALE, StorageFailed), (errno.EINVAL, CorruptShard)],
)
def test_a_disk_error_is_not_a_corrupt_shard(
    code: int, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is retried; an offset that tarfile cannot seek to is an invalid header."""
    tar = make_shard(tmp_path, "00000", [("a", members(1))])

    def fail(_: object) -> None:
        raise OSError(code, "failed")

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    with pytest.raises(expected, match=r"00000\.tar"):
        samples.index(tar)
