"""The one door to bytes, on fsspec: local folders, s3://, hf:// and the rest.

A file is put whole or not at all: locally by a rename, on an object store by its single upload.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import posixpath
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from made_core.errors import PathError
from made_core.io.storage import filesystem as filesystem
from made_core.io.storage import is_local as is_local
from made_core.io.storage import translated_errors
from made_core.settings import settings
from made_core.types import FileRef

BLOCK = 1 << 20  # bytes of a stored file under one checksum
SCRATCH = "made-scratch-"  # how names of scratch folders begin


def absolute(url: str) -> str:
    """A local path made absolute and without scheme; any other URL as it is."""
    if not is_local(url):
        return url.rstrip("/")
    return os.path.abspath(os.path.expanduser(url.split("://", 1)[-1]))


def join(url: str, *names: str) -> str:
    """`names` below `url`."""
    return posixpath.join(url, *names)


def _now(url: str) -> tuple[Any, str]:
    """`filesystem`, without the listings it remembers: other workers put and remove files too."""
    fs, path = filesystem(url)
    fs.invalidate_cache()
    return fs, path


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes [start, end) of a file, by default all.

    Raises FileNotFoundError or StorageFailed.
    """
    fs, path = filesystem(url)
    with translated_errors(url):
        data: bytes = fs.cat_file(path, start=start, end=end)
    return data


def exists(url: str) -> bool:
    """Whether a file or folder stands there."""
    fs, path = _now(url)
    with translated_errors(url):
        return bool(fs.exists(path))


def size(url: str) -> int:
    """Bytes of a file. Raises FileNotFoundError or StorageFailed."""
    fs, path = _now(url)
    with translated_errors(url):
        return int(fs.size(path))


def names(url: str) -> dict[str, int]:
    """The files directly in a folder: name -> bytes. Raises FileNotFoundError or StorageFailed."""
    fs, path = _now(url)
    with translated_errors(url):
        rows = fs.ls(path, detail=True)
    return {posixpath.basename(r["name"]): int(r["size"]) for r in rows if r["type"] == "file"}


def measure(url: str) -> tuple[int, int]:
    """(files, bytes) in a folder and all below; nothing there is (0, 0). Raises StorageFailed."""
    fs, path = _now(url)
    with translated_errors(url):
        sizes = [int(row["size"] or 0) for row in fs.find(path, detail=True).values()]
    return len(sizes), sum(sizes)


def glob(url: str) -> list[str]:
    """The URLs that match a pattern. Raises StorageFailed."""
    fs, path = _now(url)
    with translated_errors(url):
        found = fs.glob(path)
    return [p if is_local(url) else fs.unstrip_protocol(p) for p in found]


def put(url: str, write: Callable[[Path], None]) -> FileRef:
    """Has `write` fill a local file, then puts it at `url`, whole or not at all.

    Raises:
        PathError: nothing can be written there: no permission, a read-only disk, a file as a folder.
        StorageFailed: the disk is full, the store does not answer; nothing stands at `url` then.
    """
    if is_local(url):
        target = Path(absolute(url))
        part = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
        with translated_errors(url):
            make_folder(target.parent)
            try:
                write(part)
                with open(part, "rb+") as file:
                    os.fsync(file.fileno())
                ref = described(str(target), part)
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
        return ref
    fs, path = filesystem(url)
    with scratch() as folder:
        part = folder / posixpath.basename(url)
        with translated_errors(str(part)):
            write(part)
            ref = described(url, part)
        with translated_errors(url):
            fs.put_file(str(part), path)
        return ref


def make_folder(folder: Path) -> None:
    """Makes a local folder. Raises PathError where there can be none, as in /proc."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise PathError(f"{folder}: no folder can be made there ({error.strerror})") from None


def put_bytes(url: str, data: bytes) -> FileRef:
    """Puts `data` at `url`, whole or not at all. Raises StorageFailed."""

    def write(path: Path) -> None:
        path.write_bytes(data)

    return put(url, write)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, in MADE_SCRATCH or the system's place.

    While its process lives it is locked: leftovers.clean_scratch removes those that are not.
    """
    base = settings().scratch
    if base is not None:
        base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=base) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # where folders cannot be locked, nobody sweeps either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(descriptor)


@contextmanager
def local(url: str) -> Iterator[Path]:
    """The file as a local path: itself, or a copy that is gone afterwards.

    Raises FileNotFoundError or StorageFailed.
    """
    if is_local(url):
        path = Path(absolute(url))
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        yield path
        return
    with scratch() as folder:
        copy = folder / posixpath.basename(url)
        fs, path_in_store = filesystem(url)
        with translated_errors(url):
            fs.get_file(path_in_store, str(copy))
        yield copy


def reference(url: str) -> FileRef:
    """A pointer to a file that stands there. Raises FileNotFoundError or StorageFailed."""
    with local(url) as path:
        return described(url, path)


def described(url: str, path: Path) -> FileRef:
    """A pointer to `url`, of which the local file `path` is the content; reads it once."""
    state, blocks, length = hashlib.blake2b(digest_size=16), [], 0
    with open(path, "rb") as file:
        while data := file.read(BLOCK):
            state.update(data)
            blocks.append(checksum(data))
            length += len(data)
    return FileRef(url, length, state.hexdigest(), "".join(blocks))


def file_digest(path: Path) -> str:
    """32 hex digits, blake2b-128 of a local file's content."""
    return described(str(path), path).digest


def checksum(data: bytes | memoryview) -> str:
    return f"{zlib.crc32(data):08x}"


def move(source: str, target: str) -> None:
    """Moves a file; locally by a rename. Raises FileNotFoundError or StorageFailed."""
    fs, path = _now(source)
    with translated_errors(source):
        if is_local(source):
            make_folder(Path(absolute(target)).parent)
            os.replace(absolute(source), absolute(target))
        else:
            fs.cp_file(path, filesystem(target)[1])  # not mv, nor rm: they take [ and * for patterns
            fs.rm_file(path)


def remove(url: str) -> None:
    """Removes a file or a folder with all that is in it; nothing there is fine."""
    fs, path = _now(url)
    with translated_errors(url), suppress(FileNotFoundError):
        if is_local(url):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        else:
            for inside in fs.find(path):
                fs.rm_file(inside)
