"""Stored files, read through their pointers: nothing is used unchecked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from made_core.errors import DamagedFile
from made_core.io import files
from made_core.types import FileRef


@contextmanager
def local(ref: FileRef) -> Iterator[Path]:
    """A stored file as a local path, its size and digest checked.

    Raises:
        DamagedFile: it is gone, or not what was written.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(files.local(ref.path))
        except FileNotFoundError as error:
            raise _gone(ref, error) from None
        _same_size(ref, path.stat().st_size)
        if (found := files.file_digest(path)) != ref.digest:
            raise _damaged(ref, f"has digest {found}, not {ref.digest}")
        yield path


def check_size(ref: FileRef) -> None:
    """Looks at a stored file without reading it. Raises DamagedFile: it is gone, or of another size."""
    try:
        _same_size(ref, files.size(ref.path))
    except FileNotFoundError as error:
        raise _gone(ref, error) from None


def read_range(ref: FileRef, start: int, end: int) -> bytes:
    """The bytes [start, end) of a stored file, unchecked. Raises DamagedFile: they are not there."""
    try:
        data = files.read(ref.path, start, end) if start < end else b""
    except FileNotFoundError as error:
        raise _gone(ref, error) from None
    if len(data) != end - start:
        raise _damaged(ref, f"has {len(data)} bytes from {start} on, not {end - start}")
    return data


def check_blocks(ref: FileRef, first: int, data: bytes | memoryview) -> None:
    """Checks `data`, a stored file's content from its block `first` on. Raises DamagedFile."""
    for start in range(0, len(data), files.BLOCK):
        block = first + start // files.BLOCK
        found, written = (
            files.checksum(data[start : start + files.BLOCK]),
            ref.blocks[8 * block : 8 * block + 8],
        )
        if found != written:
            begin = block * files.BLOCK
            place = f"in block {block} (bytes {begin} to {min(begin + files.BLOCK, ref.size)})"
            raise _damaged(ref, f"has crc32 {found} {place}, not {written}")


def _same_size(ref: FileRef, found: int) -> None:
    if found != ref.size:
        raise _damaged(ref, f"has {found} bytes, {ref.size} were written")


def _damaged(ref: FileRef, what: str) -> DamagedFile:
    return DamagedFile(f"{ref.path} {what}; remove it, then `made retry` makes it again")


def _gone(ref: FileRef, error: FileNotFoundError) -> DamagedFile:
    return DamagedFile(f"{ref.path} is gone ({error}); `made retry` makes it again")
