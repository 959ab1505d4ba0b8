"""fsspec's file systems, with their errors sorted into those to retry and those the user must fix."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from made_core.errors import MadeError, PathError, StorageFailed

REFUSED = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
REFUSED_CODES = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG)
MISCONFIGURED = (  # exceptions of botocore and Google, by name: neither needs to be installed
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ConfigParseError",
    "DefaultCredentialsError",
)  # fmt: skip


def is_local(url: str) -> bool:
    """Whether `url` is a path on a mounted file system."""
    return "://" not in url or url.startswith(("file://", "local://"))


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it.

    Raises:
        PathError: unknown protocol, or its library or configuration is missing.
        StorageFailed: the storage did not answer.
    """
    with translated_errors(url):
        try:
            fs, path = fsspec.core.url_to_fs(url)
        except (ImportError, TypeError, ValueError) as error:
            raise PathError(f"{url}: {_unusable(url, error)}") from None
    return fs, path


def _unusable(url: str, error: Exception) -> str:
    """Why fsspec has no file system for `url`, and what to do."""
    protocol, known = url.split("://", 1)[0], fsspec.available_protocols()
    if isinstance(error, ImportError):
        return f"{error}, on this machine and on every worker"
    if protocol in known:
        return f"not a valid {protocol} URL: {error}"
    near = difflib.get_close_matches(protocol, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown protocol {protocol}; {hint}allowed: a local path, {', '.join(sorted(known))}"


@contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Translates a file system's errors into ours; a missing file stays a FileNotFoundError.

    Raises:
        PathError: a retry would fail too: no permission, a file where a folder is needed.
        StorageFailed: a retry may succeed.
    """
    try:
        yield
    except (FileNotFoundError, MadeError):
        raise
    except OSError as error:
        if isinstance(error, REFUSED) or error.errno in REFUSED_CODES:
            reason = error.strerror or str(error)
            raise PathError(f"{url}: {reason[:1].lower()}{reason[1:]}") from error
        raise StorageFailed(f"{url}: {error}") from error
    except Exception as error:  # clients of object stores have their own exceptions
        kind = type(error).__name__
        if kind in MISCONFIGURED:
            raise PathError(f"{url}: {error} ({kind}): configure it here and on every worker") from error
        if isinstance(error, NotImplementedError):
            raise PathError(f"{url}: this kind of storage does not support the operation") from error
        if is_local(url):
            raise
        raise StorageFailed(f"{url}: {kind}: {error}") from error
