"""Reads the headers of a tar, one after the other."""

from __future__ import annotations

import re
import tarfile
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

BLOCK = 512  # bytes: the block size of tar
LONGEST = 1 << 20  # maximum bytes of a header with a long name or PAX records
# From byte 100: mode, owner, group, size, time and checksum as octal digits, and the type: file or records.
NUMBERS = re.compile(rb"(?:[0-7]{7}\0){3}([0-7]{11})\0[0-7]{11}\0([0-7]{6})\0 ([0x])")
CHECKSUM = slice(148, 156)  # counts as blanks in the checksum
REST = re.compile(rb"(?:[0-7]{7}\0|\0{8}){2}\0")  # from byte 329: the device, and no prefix of the name
TIME = re.compile(rb"([0-9]{2}) mtime=[0-9]+\.[0-9]+\n")  # the only record of a member that webdataset writes


@dataclass(frozen=True)
class Header:
    """A member of a tar."""

    name: str
    is_file: bool  # an ordinary one: no folder, link or sparse file
    start: int  # byte of the header
    data: int  # byte of the content
    size: int  # bytes of the content


class Headers:
    """The headers of a tar in order; reads nothing else.

    Those of ordinary files, as img2dataset and `tar` write them, are read by patterns, in a quarter of
    tarfile's time; all others by tarfile.

    Raises:
        tarfile.TarError, ValueError, LookupError, OverflowError, EOFError, RecursionError, OSError: invalid.
    """

    def __init__(self, path: Path) -> None:
        self.end = 0  # byte after the last member
        with ExitStack() as stack:
            self._file = stack.enter_context(_Limited(path))
            self._tar = stack.enter_context(tarfile.open(fileobj=self._file, mode="r:"))
            self._close = stack.pop_all()

    def __enter__(self) -> Headers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._close.close()

    def next(self) -> Header | None:
        """The next header; None at the end-of-archive marker or where the tar is damaged.

        TarFile.next would keep all headers in memory, and fails for an empty tar on Python 3.10.
        """
        start = self.end
        self._file.seek(start)
        blocks = self._file.read(3 * BLOCK)
        ahead = 2 * BLOCK if only_a_time(blocks) else 0
        if not self._tar.pax_headers and (plain := ordinary(blocks[ahead : ahead + BLOCK])):
            name, size = plain
            data = start + ahead + BLOCK
            self.end = data + -(-size // BLOCK) * BLOCK
            return Header(name, True, start, data, size)
        self._file.seek(start)
        try:
            info = tarfile.TarInfo.fromtarfile(self._tar)
        except tarfile.HeaderError:
            return None
        self.end = self._tar.offset
        is_file = info.isreg() and not info.issparse()
        return Header(info.name, is_file, info.offset, info.offset_data, info.size)


def ordinary(block: bytes) -> tuple[str, int] | None:
    """Name and size in the header of an ordinary file with a short ASCII name; None for any other."""
    size = _size(block, b"0")
    name = block[:100].partition(b"\0")[0]
    return None if size is None or not name.isascii() else (name.decode("ascii"), size)


def only_a_time(blocks: bytes) -> bool:
    """Whether the first two blocks are a PAX header whose one record is a time: it changes no other field."""
    if (size := _size(blocks[:BLOCK], b"x")) is None or size > BLOCK:
        return False
    record = TIME.fullmatch(blocks, BLOCK, BLOCK + size)
    return record is not None and int(record[1]) == size


def _size(block: bytes, kind: bytes) -> int | None:
    """The size in a header of this type; None if it is of another, damaged or written in another way."""
    numbers = NUMBERS.match(block, 100)
    if numbers is None or numbers[3] != kind or REST.match(block, 329) is None or len(block) < BLOCK:
        return None
    checksum = total(block) - total(block[CHECKSUM]) + 8 * ord(" ")
    return int(numbers[1], 8) if checksum == int(numbers[2], 8) else None


def total(data: bytes) -> int:
    """The sum of the bytes of at most one block."""
    # The lower half of an Adler-32 is 1 + this sum, modulo 65,521: of ASCII characters a block's is less.
    return (zlib.adler32(data) & 0xFFFF) - 1 if data.isascii() else sum(data)


class _Limited(FileIO):
    """A tar of which only headers are read. Limits their length, so a false length takes no memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LONGEST:
            raise tarfile.ReadError(f"a header claims {size} bytes, allowed: {LONGEST}")
        return super().read(size)
