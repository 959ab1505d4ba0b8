"""Whether something can be written at a place: tried for real, as permissions alone do not tell."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from made_core.errors import OutputError, PathError
from made_core.io import files
from made_core.io.storage import translated_errors

PREFIX = ".made-probe-"


def writable(name: str, place: str) -> None:
    """Puts a file at `place`, or where it would be made, and removes it: nothing is left.

    Args:
        name: what the place is, for the message.
        place: an absolute path, or a URL.

    Raises:
        OutputError: no file can be put there, nor will another try.
        StorageFailed: the storage did not answer, or the disk is full.
    """
    try:
        if files.is_local(place):
            _local(Path(files.absolute(place)))
        else:
            _put(place)
    except PathError as error:
        raise OutputError(f"{name} {place} cannot be written: {error.detail.partition(': ')[2]}") from None
    except FileNotFoundError as error:
        raise OutputError(f"{name} {place} cannot be written: {error.strerror or error}") from None


def _local(place: Path) -> None:
    with translated_errors(str(place)):
        try:
            place.lstat()
        except FileNotFoundError:
            nearest = next(folder for folder in place.parents if os.path.lexists(folder))
            folder = nearest / f"{PREFIX}{uuid4().hex}"  # not the place itself: another may make it now
            files.make_folder(folder)
            try:
                _put(str(folder))
            finally:
                folder.rmdir()
            return
        if not place.is_dir():
            raise PathError(f"{place}: it is not a folder")
        _put(str(place))


def _put(place: str) -> None:
    url = files.join(place, f"{PREFIX}{uuid4().hex}")
    files.put_bytes(url, b"")
    files.remove(url)
