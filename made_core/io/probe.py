"""Checks that a folder is writable by writing to it: permissions alone are not conclusive."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from made_core.errors import OutputError, PathError
from made_core.io import files
from made_core.io.storage import translated_errors

PREFIX = ".made-probe-"


def writable(name: str, url: str) -> None:
    """Writes a file to the folder `url`, or to a new folder beside it if it does not exist, and removes it.

    Args:
        name: what the folder is, for the message.
        url: of the folder; an absolute path or a URL.

    Raises:
        OutputError: the folder cannot be written, and a retry would fail too.
        StorageFailed: the storage did not answer, or the disk is full.
    """
    try:
        if files.is_local(url):
            _local(Path(files.absolute(url)))
        else:
            _put(url)
    except PathError as error:
        raise OutputError(f"{name} {url} cannot be written: {error.detail.partition(': ')[2]}") from None
    except FileNotFoundError as error:
        raise OutputError(f"{name} {url} cannot be written: {error.strerror or error}") from None


def _local(path: Path) -> None:
    with translated_errors(str(path)):
        try:
            path.lstat()
        except FileNotFoundError:
            nearest = next(folder for folder in path.parents if os.path.lexists(folder))
            folder = nearest / f"{PREFIX}{uuid4().hex}"  # not `path`: another process may create it now
            files.make_folder(folder)
            try:
                _put(str(folder))
            finally:
                folder.rmdir()
            return
        if not path.is_dir():
            raise PathError(f"{path}: it is not a folder")
        _put(str(path))


def _put(folder: str) -> None:
    url = files.join(folder, f"{PREFIX}{uuid4().hex}")
    files.put_bytes(url, b"")
    files.remove(url)
