"""The pattern for headers of ordinary files agrees with tarfile wherever it matches."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from made_core.ingest.tar_headers import BLOCK, Header, Headers, only_a_time, ordinary, total

Format = Literal[0, 1]
FORMATS: list[Format] = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT]
DAMAGE = st.lists(st.tuples(st.integers(0, BLOCK - 1), st.integers(0, 255)), max_size=3)


def header(name: str, size: int, format: Format, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The last block of a member's header."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.type = size, 1_700_000_000, kind
    return info.tobuf(format)[-BLOCK:]


def with_checksum(block: bytearray) -> bytes:
    """The block with the checksum of its bytes."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@given(st.text("ab/.-_0", min_size=1, max_size=100), st.integers(0, 8**11 - 1), st.sampled_from(FORMATS))
def test_ordinary_files_are_matched(name: str, size: int, format: Format) -> None:
    found = tarfile.TarInfo.frombuf(header(name, size, format), "utf-8", "surrogateescape")
    assert ordinary(header(name, size, format)) == (found.name, found.size) == (name, size)


@given(
    st.text("ab/.\u00fc", min_size=1, max_size=30),
    st.integers(0, 8**12),
    st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE, b"x", b"L", b"S"]),
    DAMAGE,
    st.booleans(),
)
def test_what_is_matched_is_what_tarfile_reads(
    name: str, size: int, kind: bytes, damage: list[tuple[int, int]], mended: bool
) -> None:
    block = bytearray(header(name, size, tarfile.GNU_FORMAT, kind))
    for at, value in damage:
        block[at] = value
    data = with_checksum(block) if mended else bytes(block)
    if (matched := ordinary(data)) is not None:
        found = tarfile.TarInfo.frombuf(data, "utf-8", "surrogateescape")
        assert matched == (found.name, found.size)
        assert found.type == tarfile.REGTYPE


@given(st.binary(max_size=BLOCK))
@example(b"\x7f" * BLOCK)
@example(b"\xff" * BLOCK)
@example(bytes(BLOCK))
def test_total(data: bytes) -> None:
    assert total(data) == sum(data)


def test_a_short_block_is_not_matched() -> None:
    block = header("a.txt", 1, tarfile.GNU_FORMAT)
    assert ordinary(block[:-1]) is None
    assert ordinary(b"") is None


def pax(name: str, size: int, records: dict[str, str]) -> bytes:
    """A member's header with PAX records, as webdataset's writer makes it for a time that is no integer."""
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = size, records
    return info.tobuf(tarfile.PAX_FORMAT)


@given(st.floats(0, 4e9).filter(lambda time: time != int(time) and "e" not in str(time)))
def test_a_time_is_matched(time: float) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.mtime = time
    assert only_a_time(info.tobuf(tarfile.PAX_FORMAT))


RECORDS = st.dictionaries(
    st.sampled_from(["mtime", "size", "path", "hdrcharset", "x"]),
    st.sampled_from(["1.5", "1700000000.123456", "7", "b.txt", "-1.5", "1e5", "1.5\n", ""]),
    max_size=3,
)


@given(RECORDS, DAMAGE, st.booleans(), st.sampled_from([b"x", b"g", b"0", b"X"]))
def test_headers_with_records_are_read_as_tarfile_does(
    records: dict[str, str], damage: list[tuple[int, int]], mended: bool, kind: bytes
) -> None:
    block = bytearray(pax("a.jpg", 3, records))
    for at, value in damage:
        block[len(block) - 3 * BLOCK + at if len(block) > BLOCK else at] = value
    block[156:157] = kind
    data = with_checksum(block[:BLOCK]) + bytes(block[BLOCK:]) if mended else bytes(block)
    data += b"abc".ljust(BLOCK, b"\0") + header("c.txt", 0, tarfile.GNU_FORMAT) + bytes(2 * BLOCK)
    assert read(data, by_pattern=True) == read(data, by_pattern=False)


def read(data: bytes, by_pattern: bool) -> list[Header] | str:
    """The headers of a tar, or the error; without the patterns tarfile reads all."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "0.tar"
        path.write_bytes(data)
        if not by_pattern:
            patch.setattr("made_core.ingest.tar_headers.ordinary", lambda _: None)
        try:
            with Headers(path) as headers:
                return list(iter(headers.next, None))
        except (tarfile.TarError, ValueError, LookupError, OverflowError, EOFError, OSError) as error:
            return type(error).__name__
