"""Storage that fails: what can pass is retried, a user's mistake is said."""

from __future__ import annotations

import errno
import os

import pytest
import s3fs

from made_core.errors import PathError, StorageFailed, Transient
from made_core.io import files
from made_core.io.storage import translated_errors
from tests.support.s3 import use_s3


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    for act in (lambda: files.read("s3://b/x"), lambda: files.put_bytes("s3://b/x", b"1")):
        with pytest.raises(StorageFailed, match="s3://b/x"):
            act()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.integration
def test_a_missing_bucket(s3: str) -> None:
    with pytest.raises((StorageFailed, FileNotFoundError)):
        files.put_bytes("s3://no-such-bucket/x", b"1")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s33://x/y", r"unknown protocol s33; did you mean s3\? allowed: a local path, .*hf, .*s3, "),
        ("nonsense://x/y", "unknown protocol nonsense; allowed: a local path"),
        ("gcs://x/y", "gcsfs.* on this machine and on every worker"),
        ("github://x/y", "not a valid github URL"),
    ],
)
def test_a_protocol_that_cannot_be_used(url: str, words: str) -> None:
    for act in (files.read, files.exists, lambda url: files.put_bytes(url, b"")):
        with pytest.raises(PathError, match=f"^{url}: .*{words}"):
            act(url)


def test_missing_credentials_are_a_user_error(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PathError, match=r"Unable to locate credentials.*configure it here"):
        files.names(s3)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, PathError) for code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
                                         errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)),
        *((code, StorageFailed) for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE,
                                             errno.ETIMEDOUT, errno.EINTR)),
        (errno.ENOENT, FileNotFoundError),
    ],
)  # fmt: skip
def test_which_errors_are_transient(code: int, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught, translated_errors("/data/x"):
        raise OSError(code, os.strerror(code), "/data/x")
    assert isinstance(caught.value, Transient) == (expected is StorageFailed)
