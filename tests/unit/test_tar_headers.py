"""The pattern for headers of ordinary files agrees with tarfile wherever it matches."""

from __future__ import annotations

import tarfile
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from made_core.ingest.tar_headers import BLOCK, ordinary

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


def test_a_short_block_is_not_matched() -> None:
    block = header("a.txt", 1, tarfile.GNU_FORMAT)
    assert ordinary(block[:-1]) is None
    assert ordinary(b"") is None
