"""Stored arrays: of a `.npy` what is asked for is read, and nothing is used unchecked.

A file is its blocks, each with its checksum in the file's pointer. A block is checked when it is
first touched. A remote file's is fetched then, into a sparse copy on disk: so a slice costs its own
blocks of traffic and of disk, and one request's memory.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core.errors import DamagedFile
from made_core.io import files, stored
from made_core.types import FileRef

READERS = 8  # threads that read remote files: the wait is for storage
PIECE = 8 << 20  # bytes of a remote file that a reader holds at a time, by one request
HEADER = 1024  # bytes that hold the header of every `.npy` of ours


def put_array(url: str, array: npt.NDArray[np.generic]) -> FileRef:
    """Puts an array as `.npy`. Raises StorageFailed."""

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, np.ascontiguousarray(array))

    return files.put(url, write)


def read_array(ref: FileRef) -> npt.NDArray[Any]:
    """All of a stored `.npy`, every block checked; on disk, read only. Raises DamagedFile."""
    return StoredArray(ref).rows()


def readers(refs: Iterable[FileRef]) -> int:
    """Threads to read files with: local ones are mapped, which threads only slow down."""
    return 1 if all(files.is_local(ref.path) for ref in refs) else READERS


class StoredArray:
    """A stored `.npy`, read by slices and by rows; for one thread at a time.

    Args:
        piece: bytes of a remote file that one request reads, and memory holds, at most; but a block.

    Raises:
        DamagedFile: when opened, it is gone, of another size or no array; when read, a block that
            was asked for is not what was written.
    """

    def __init__(self, ref: FileRef, piece: int = PIECE) -> None:
        stored.check_size(ref)
        self.ref = ref
        self._most = max(1, piece // files.BLOCK)  # blocks of a request
        self._checked = np.zeros(-(-ref.size // files.BLOCK), bool)
        self._copy: int | None = None  # descriptor of a remote file's
        if files.is_local(ref.path):
            with open(files.absolute(ref.path), "rb") as file:
                self._map = _mapped(file.fileno(), ref)
        else:
            with files.scratch() as folder:  # the copy has no name then: gone when nobody uses it
                self._copy = os.open(folder / "blocks", os.O_RDWR | os.O_CREAT)
            weakref.finalize(self, os.close, self._copy)
            os.ftruncate(self._copy, ref.size)
            self._map = _mapped(self._copy, ref)
        try:
            self._touch(np.array([0]), np.array([min(HEADER, ref.size)]))
            head = BytesIO(self._map[:HEADER])
            np.lib.format.read_magic(head)
            self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(head)
        except ValueError as error:
            raise DamagedFile(f"{ref.path} is no array: {error}") from None
        self._begin = head.tell()  # where the first row begins
        self._width = self.dtype.itemsize * math.prod(self.shape[1:])  # bytes of a row
        self._array: npt.NDArray[Any] = np.ndarray(self.shape, self.dtype, self._map, self._begin)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """The rows [start, stop), by default all; they stay on disk. Raises DamagedFile."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self.ref.path} has {len(self)} rows, not {start} to {stop}")
        self._touch(*(np.array([self._begin + row * self._width]) for row in (start, stop)))
        return self._array[start:stop]

    def take(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """(len(wanted), ...) copies of these rows, in that order. Raises DamagedFile."""
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"{self.ref.path} has {len(self)} rows, not {wanted.min()} to {wanted.max()}")
        starts = self._begin + wanted * self._width
        self._touch(starts, starts + self._width)
        taken: npt.NDArray[Any] = self._array[wanted]
        return taken

    def _touch(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """Sees to it that the blocks under the bytes [starts[i], stops[i]) are here and checked."""
        some = starts < stops
        enter, leave = starts[some] // files.BLOCK, -(-stops[some] // files.BLOCK)
        ends = len(self._checked) + 1
        inside = np.cumsum(np.bincount(enter, minlength=ends) - np.bincount(leave, minlength=ends))
        blocks = np.flatnonzero((inside[:-1] > 0) & ~self._checked)
        for run in np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1):
            for n in range(0, len(run), self._most):
                self._check(int(run[n]), int(run[n : n + self._most][-1]) + 1)

    def _check(self, first: int, last: int) -> None:
        """Has the blocks first to last - 1 here and checked."""
        begin, end = first * files.BLOCK, min(last * files.BLOCK, self.ref.size)
        if self._copy is None:
            stored.check_blocks(self.ref, first, memoryview(self._map)[begin:end])
        else:
            data = stored.read_range(self.ref, begin, end)
            stored.check_blocks(self.ref, first, data)
            with open(self._copy, "rb+", closefd=False) as file:
                file.seek(begin)
                file.write(data)  # written, not mapped: a full disk is an error then
        self._checked[first:last] = True


def _mapped(descriptor: int, ref: FileRef) -> mmap.mmap:
    if not ref.size:
        raise DamagedFile(f"{ref.path} is no array: it is empty")
    return mmap.mmap(descriptor, ref.size, access=mmap.ACCESS_READ)
