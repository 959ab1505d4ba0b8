"""File access through fsspec: local folders, s3://, hf:// and other protocols.

Writes are atomic: locally by a rename, on an object store by a single upload.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import posixpath
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from made_core.errors import PathError, StorageFailed
from made_core.io.storage import filesystem as filesystem
from made_core.io.storage import is_local as is_local
from made_core.io.storage import translated_errors
from made_core.settings import settings
from made_core.types import FileRef

BLOCK = 1 << 20  # bytes of a stored file per checksum
SCRATCH = "made-scratch-"  # prefix of the names of scratch folders


def absolute(url: str) -> str:
    """A local path as an absolute path without a scheme; any other URL without a trailing slash.

    Raises PathError if nothing follows the scheme.
    """
    scheme, is_url, rest = url.partition("://")
    if is_url and not (rest if is_local(url) else rest.strip("/")):
        raise PathError(f"{url}: nothing after {scheme}://; expected a folder or file, {scheme}://NAME")
    if not is_local(url):
        return url.rstrip("/")
    return os.path.abspath(os.path.expanduser(url.split("://", 1)[-1]))


def real(url: str) -> str:
    """`absolute`, and for a local path without symbolic links."""
    return os.path.realpath(absolute(url)) if is_local(url) else absolute(url)


def join(url: str, *names: str) -> str:
    """`names` below `url`."""
    return posixpath.join(url, *names)


def _uncached(url: str) -> tuple[Any, str]:
    """`filesystem` with its cached listings dropped: other workers add and remove files too."""
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
    """Whether a file or folder exists."""
    fs, path = _uncached(url)
    with translated_errors(url):
        return bool(fs.exists(path))


def size(url: str) -> int:
    """Size of a file in bytes. Raises FileNotFoundError or StorageFailed."""
    fs, path = _uncached(url)
    with translated_errors(url):
        return int(fs.size(path))


def names(url: str) -> dict[str, int]:
    """The files directly in a folder: name -> size in bytes. Raises FileNotFoundError or StorageFailed."""
    fs, path = _uncached(url)
    with translated_errors(url):
        rows = [row for row in fs.ls(path, detail=True) if _is(row, "file")]
        sizes = [fs.size(row["name"]) if row["size"] is None else row["size"] for row in rows]  # HTTP
    if None in sizes:
        raise PathError(f"{rows[sizes.index(None)]['name']}: the server does not tell its size")
    return {posixpath.basename(row["name"]): int(size) for row, size in zip(rows, sizes, strict=True)}


def folders(url: str) -> list[str]:
    """The names of the folders directly in a folder, sorted. Raises FileNotFoundError or StorageFailed."""
    fs, path = _uncached(url)
    with translated_errors(url):
        rows = fs.ls(path, detail=True)
    return sorted(posixpath.basename(r["name"].rstrip("/")) for r in rows if _is(r, "directory"))


def _is(row: Mapping[str, Any], kind: Literal["file", "directory"]) -> bool:
    """Whether a row of a listing is of this kind, or a link to one: fsspec lists local links as "other"."""
    if row.get("islink"):
        return bool(os.path.isfile(row["name"]) if kind == "file" else os.path.isdir(row["name"]))
    return bool(row["type"] == kind)


def measure(url: str) -> tuple[int, int]:
    """(files, bytes) in a folder and its subfolders; (0, 0) if it does not exist. Raises StorageFailed.

    A local folder may have any number of files; of a remote one, fsspec keeps a kilobyte for each meanwhile.
    """
    fs, path = _uncached(url)
    with translated_errors(url):
        if is_local(url):
            return _measure_local(path)
        sizes = [int(row["size"] or 0) for row in fs.find(path, detail=True).values()]
    fs.invalidate_cache()
    return len(sizes), sum(sizes)


def _measure_local(path: str) -> tuple[int, int]:
    count = total = 0
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner, size = _measure_local(entry.path)
                count, total = count + inner, total + size
            else:
                with suppress(FileNotFoundError):  # removed meanwhile, as part files are
                    size = entry.stat(follow_symlinks=False).st_size
                    count, total = count + 1, total + size
    return count, total


def glob(url: str) -> list[str]:
    """The URLs that match a pattern. Raises StorageFailed."""
    fs, path = _uncached(url)
    with translated_errors(url):
        matches = fs.glob(path)
    return [p if is_local(url) else fs.unstrip_protocol(p) for p in matches]


def put(url: str, write: Callable[[Path], None]) -> FileRef:
    """Calls `write` with the path of a new local file, then moves the file to `url` atomically.

    Raises:
        PathError: `url` cannot be written: no permission, a read-only disk, a file in place of a folder.
        StorageFailed: the disk is full or the storage does not answer; `url` is left unchanged.
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
    """Creates a local folder and its parents. Raises PathError if that is impossible, as in /proc."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise PathError(f"{folder}: the folder cannot be created ({error.strerror})") from None


def put_bytes(url: str, data: bytes) -> FileRef:
    """Writes `data` to `url` atomically. Raises as `put`."""

    def write(path: Path) -> None:
        path.write_bytes(data)

    return put(url, write)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder in MADE_SCRATCH or the system's temporary folder, removed afterwards.

    It is locked while its process lives: ledger.cleanup.clean_scratch removes those that are not.
    Raises PathError or StorageFailed if MADE_SCRATCH cannot be created.
    """
    base = settings().scratch
    if base is not None:
        with translated_errors(f"MADE_SCRATCH={base}"):
            make_folder(base)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=base) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # where folders cannot be locked, cleanup skips them too
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(descriptor)


@contextmanager
def local(url: str) -> Iterator[Path]:
    """The file as a local path: the file itself, or a temporary copy of a remote one.

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


def check_folder(url: str) -> None:
    """Raises StorageFailed if the local folder of a file is not there: this node may lack a mount."""
    if is_local(url) and not (folder := Path(absolute(url)).parent).is_dir():
        raise StorageFailed(f"there is no folder {folder} on {socket.gethostname()}: is it mounted there?")


def reference(url: str) -> FileRef:
    """A pointer to an existing file. Raises FileNotFoundError or StorageFailed."""
    with local(url) as path:
        return described(url, path)


def described(url: str, path: Path) -> FileRef:
    """A pointer to `url` with the content of the local file `path`, which is read once."""
    state, blocks, length = hashlib.blake2b(digest_size=16), [], 0
    with open(path, "rb") as file:
        while data := file.read(BLOCK):
            state.update(data)
            blocks.append(checksum(data))
            length += len(data)
    return FileRef(url, length, state.hexdigest(), "".join(blocks))


def file_digest(path: Path) -> str:
    """32 hex digits: blake2b-128 of a local file's content."""
    return described(str(path), path).digest


def checksum(data: bytes | memoryview) -> str:
    """8 hex digits: crc32 of `data`."""
    return f"{zlib.crc32(data):08x}"


def move(source: str, target: str) -> None:
    """Moves a file; locally by a rename. Raises FileNotFoundError or StorageFailed."""
    fs, path = _uncached(source)
    with translated_errors(source):
        if is_local(source):
            make_folder(Path(absolute(target)).parent)
            os.replace(absolute(source), absolute(target))
        else:
            fs.cp_file(path, filesystem(target)[1])  # not mv and rm: they expand [ and * in names
            fs.rm_file(path)


def remove(url: str) -> None:
    """Removes a file, or a folder with its content; no error if it does not exist."""
    fs, path = _uncached(url)
    with translated_errors(url), suppress(FileNotFoundError):
        if is_local(url):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        else:
            for inside in fs.find(path):
                fs.rm_file(inside)
