"""Stored arrays: reads the requested part of a `.npy` file and checks everything that it reads.

A file consists of blocks; the file's pointer has a checksum for each. A block is checked on first
access. Blocks of a remote file are then fetched into a sparse copy on disk, so a slice costs only the
traffic and disk space of its blocks, and the memory of one request.
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

READERS = 8  # threads that read remote files: they mostly wait for storage
PIECE = 8 << 20  # bytes of a remote file that one request reads and a reader holds in memory
HEADER = 1024  # bytes: the header of every `.npy` that we write fits


def put_array(url: str, array: npt.NDArray[np.generic]) -> FileRef:
    """Writes an array as `.npy` to `url`. Raises StorageFailed."""

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, np.ascontiguousarray(array))

    return files.put(url, write)


def read_array(ref: FileRef) -> npt.NDArray[Any]:
    """A stored `.npy`, every block checked; memory-mapped, read-only. Raises DamagedFile."""
    return StoredArray(ref).rows()


def readers(refs: Iterable[FileRef]) -> int:
    """Number of threads to read files with: 1 if all are local, because threads slow down mapped files."""
    return 1 if all(files.is_local(ref.path) for ref in refs) else READERS


class StoredArray:
    """A stored `.npy`, read by slices and by rows. Not thread-safe.

    Args:
        piece: maximum bytes of a remote file that one request reads into memory; at least one block
            is read.

    Raises:
        DamagedFile: on opening, the file is missing, has another size or is not an array; on reading,
            a requested block does not match its checksum.
    """

    def __init__(self, ref: FileRef, piece: int = PIECE) -> None:
        stored.check_size(ref)
        self.ref = ref
        self._request_blocks = max(1, piece // files.BLOCK)
        self._checked = np.zeros(-(-ref.size // files.BLOCK), bool)
        self._copy: int | None = None  # descriptor of a remote file's local copy
        if files.is_local(ref.path):
            with open(files.absolute(ref.path), "rb") as file:
                self._map = _mapped(file.fileno(), ref)
        else:
            with files.scratch() as folder:  # unlinked at once: the space is freed when it is closed
                self._copy = os.open(folder / "blocks", os.O_RDWR | os.O_CREAT)
            weakref.finalize(self, os.close, self._copy)
            os.ftruncate(self._copy, ref.size)
            self._map = _mapped(self._copy, ref)
        try:
            self._ensure(np.array([0]), np.array([min(HEADER, ref.size)]))
            head = BytesIO(self._map[:HEADER])
            np.lib.format.read_magic(head)
            self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(head)
        except ValueError as error:
            raise DamagedFile(f"{ref.path} is not a .npy array: {error}") from None
        self._begin = head.tell()  # byte offset of the first row
        self._width = self.dtype.itemsize * math.prod(self.shape[1:])  # bytes per row
        self._array: npt.NDArray[Any] = np.ndarray(self.shape, self.dtype, self._map, self._begin)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """The rows [start, stop), by default all, memory-mapped.

        Raises DamagedFile; IndexError if the array does not have these rows.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self.ref.path} has {len(self)} rows, not {start} to {stop}")
        self._ensure(*(np.array([self._begin + row * self._width]) for row in (start, stop)))
        return self._array[start:stop]

    def take(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """(len(wanted), ...) copies of the rows `wanted`, in their order.

        Raises DamagedFile; IndexError if the array does not have these rows.
        """
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"{self.ref.path} has {len(self)} rows, not {wanted.min()} to {wanted.max()}")
        starts = self._begin + wanted * self._width
        self._ensure(starts, starts + self._width)
        taken: npt.NDArray[Any] = self._array[wanted]
        return taken

    def _ensure(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """Ensures that the blocks of the bytes [starts[i], stops[i]) are local and checked."""
        some = starts < stops
        enter, leave = starts[some] // files.BLOCK, -(-stops[some] // files.BLOCK)
        ends = len(self._checked) + 1
        inside = np.cumsum(np.bincount(enter, minlength=ends) - np.bincount(leave, minlength=ends))
        blocks = np.flatnonzero((inside[:-1] > 0) & ~self._checked)
        for run in np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1):
            for n in range(0, len(run), self._request_blocks):
                self._check(int(run[n]), int(run[n : n + self._request_blocks][-1]) + 1)

    def _check(self, first: int, last: int) -> None:
        """Fetches the blocks first to last - 1 of a remote file, and checks them."""
        begin, end = first * files.BLOCK, min(last * files.BLOCK, self.ref.size)
        if self._copy is None:
            stored.check_blocks(self.ref, first, memoryview(self._map)[begin:end])
        else:
            data = stored.read_range(self.ref, begin, end)
            stored.check_blocks(self.ref, first, data)
            with open(self._copy, "rb+", closefd=False) as file:
                file.seek(begin)
                file.write(data)  # not through the map: there a full disk raises no exception
        self._checked[first:last] = True


def _mapped(descriptor: int, ref: FileRef) -> mmap.mmap:
    if not ref.size:
        raise DamagedFile(f"{ref.path} is not a .npy array: it is empty")
    return mmap.mmap(descriptor, ref.size, access=mmap.ACCESS_READ)
