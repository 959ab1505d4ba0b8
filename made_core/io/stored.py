"""Reads stored files through their pointers and checks all that is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from made_core.errors import DamagedFile
from made_core.io import files
from made_core.types import FileRef

STAT_THREADS = 16  # threads that check whether files exist; they wait for storage


@contextmanager
def local(ref: FileRef) -> Iterator[Path]:
    """A stored file as a local path, with its size and digest checked.

    Raises:
        DamagedFile: the file is missing, or its size or digest differs.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(files.local(ref.path))
        except FileNotFoundError as error:
            raise _missing(ref, error) from None
        _same_size(ref, path.stat().st_size)
        if (actual := files.file_digest(path)) != ref.digest:
            raise _damaged(ref, f"has digest {actual}, not {ref.digest}")
        yield path


def check_size(ref: FileRef) -> None:
    """Checks that a stored file exists and has the right size. Raises DamagedFile."""
    try:
        _same_size(ref, files.size(ref.path))
    except FileNotFoundError as error:
        raise _missing(ref, error) from None


def missing(refs: Sequence[FileRef]) -> list[str]:
    """The files that do not exist or have the wrong size. Raises StorageFailed."""

    def there(ref: FileRef) -> bool:
        try:
            check_size(ref)
        except DamagedFile:
            return False
        return True

    with ThreadPoolExecutor(STAT_THREADS) as pool:  # they wait for storage
        return [r.path for r, is_there in zip(refs, pool.map(there, refs), strict=True) if not is_there]


def read_range(ref: FileRef, start: int, end: int) -> bytes:
    """The bytes [start, end) of a stored file, unchecked. Raises DamagedFile if it does not have them."""
    try:
        data = files.read(ref.path, start, end) if start < end else b""
    except FileNotFoundError as error:
        raise _missing(ref, error) from None
    if len(data) != end - start:
        raise _damaged(ref, f"has {len(data)} bytes from offset {start}, not {end - start}")
    return data


def check_blocks(ref: FileRef, first: int, data: bytes | memoryview) -> None:
    """Checks `data`, the content of a stored file from block `first` on. Raises DamagedFile."""
    for start in range(0, len(data), files.BLOCK):
        block = first + start // files.BLOCK
        actual, expected = (
            files.checksum(data[start : start + files.BLOCK]),
            ref.blocks[8 * block : 8 * block + 8],
        )
        if actual != expected:
            begin = block * files.BLOCK
            where = f"in block {block} (bytes {begin} to {min(begin + files.BLOCK, ref.size)})"
            raise _damaged(ref, f"has crc32 {actual} {where}, not {expected}")


def _same_size(ref: FileRef, actual: int) -> None:
    if actual != ref.size:
        raise _damaged(ref, f"has {actual} bytes, not {ref.size}")


def _damaged(ref: FileRef, what: str) -> DamagedFile:
    return DamagedFile(f"{ref.path} {what}; remove it, then run `made retry` to recompute it")


def _missing(ref: FileRef, error: FileNotFoundError) -> DamagedFile:
    return DamagedFile(f"{ref.path} is missing ({error}); run `made retry` to recompute it")
