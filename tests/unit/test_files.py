"""Puts are atomic, locally and in an object store, and raise made's error types."""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_core.errors import DamagedFile, PathError, StorageFailed, Transient
from made_core.io import files, stored
from made_core.settings import Settings
from made_core.types import FileRef
from tests.support.s3 import BUCKET


def there(folder: str) -> dict[str, int]:
    """The files of a folder; empty if it does not exist."""
    with suppress(FileNotFoundError):
        return files.names(folder)
    return {}


def test_put_read_names(place: str) -> None:
    url = f"{place}/a b ü/x.bin"
    ref = files.put_bytes(url, b"content")
    digest = hashlib.blake2b(b"content", digest_size=16).hexdigest()
    assert ref == FileRef(url, 7, digest, f"{zlib.crc32(b'content'):08x}")
    assert files.read(url) == b"content"
    assert files.read(url, 1, 4) == b"ont"
    assert files.size(url) == 7
    assert files.exists(url)
    assert files.exists(f"{place}/a b ü")
    assert not files.exists(f"{place}/none")
    files.put_bytes(url, b"more content")
    assert files.names(f"{place}/a b ü") == {"x.bin": 12}
    assert files.glob(f"{place}/*/x.*") == [url]


def test_names_lists_files_directly_in_the_folder(place: str) -> None:
    for name in ("a", "b", "sub/c"):
        files.put_bytes(f"{place}/{name}", name.encode())
    assert files.names(place) == {"a": 1, "b": 1}
    assert files.names(f"{place}/") == {"a": 1, "b": 1}


@pytest.mark.parametrize("url", ["http://", "s3://", "s3:///", "https://", "file://", "local://"])
def test_a_url_of_a_scheme_only(url: str) -> None:
    """Without its slashes it would be a local folder named `http:`."""
    with pytest.raises(PathError, match=f"^{url}: nothing after {url[: url.index('/') + 2]}; expected"):
        files.absolute(url)


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "real" / "x").write_bytes(b"12345")
    links = tmp_path / "links"
    links.mkdir()
    for name, target in {"file": "real/x", "folder": "real/sub", "lost": "none"}.items():
        (links / name).symlink_to(tmp_path / target)
    assert files.names(str(links)) == {"file": 5}
    assert files.folders(str(links)) == ["folder"]


def test_missing_files(place: str) -> None:
    files.put_bytes(f"{place}/a", b"")
    url = f"{place}/none"
    with pytest.raises(FileNotFoundError):
        files.read(url)
    with pytest.raises(FileNotFoundError):
        files.size(url)
    with pytest.raises(FileNotFoundError):
        files.names(url)
    with pytest.raises(FileNotFoundError), files.local(url):
        pass
    with pytest.raises(FileNotFoundError):
        files.move(url, f"{place}/b")
    files.remove(url)
    assert files.names(place) == {"a": 0}


class BrokenError(Exception):
    """An error raised by the writer."""


@pytest.mark.parametrize("before", [None, b"what stood there"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageFailed),
        (OSError(errno.EIO, os.strerror(errno.EIO)), StorageFailed),
        (BrokenError("x"), BrokenError),
        (DamagedFile("x"), DamagedFile),
        (FileNotFoundError("input"), FileNotFoundError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, before: bytes | None, error: BaseException, expected: type[BaseException]
) -> None:
    fail(str(tmp_path), before, error, expected)
    assert os.listdir(tmp_path) == ([] if before is None else ["x"])


@pytest.mark.integration
@pytest.mark.parametrize("before", [None, b"what stood there"])
def test_a_failed_write_uploads_nothing(s3: str, before: bytes | None) -> None:
    fail(s3, before, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageFailed)
    fail(s3, before, BrokenError("x"), BrokenError)


def fail(place: str, before: bytes | None, error: BaseException, expected: type[BaseException]) -> None:
    """Puts with a writer that raises half-way."""
    url = f"{place}/x"
    if before is not None:
        files.put_bytes(url, before)

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(expected) as caught:
        files.put(url, write)
    assert type(caught.value) is expected
    assert there(place) == ({} if before is None else {"x": len(before)})


def test_a_full_disk_can_be_retried(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(StorageFailed, match="No space left on device") as caught:
        files.put(str(tmp_path / "x"), write)
    assert isinstance(caught.value, Transient)


def test_a_file_is_not_visible_while_it_is_written(tmp_path: Path) -> None:
    written: list[int] = []

    def write(path: Path) -> None:
        assert path.parent == tmp_path, "a rename would cross file systems"
        path.write_bytes(b"first half")
        written.append(path.stat().st_ino)
        assert not (tmp_path / "x.tar").exists()
        assert not any(n.endswith((".tar", ".json")) for n in os.listdir(tmp_path))

    files.put(str(tmp_path / "x.tar"), write)
    assert os.listdir(tmp_path) == ["x.tar"]
    assert written == [(tmp_path / "x.tar").stat().st_ino], "renamed, not copied"


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for url in (tmp_path / "file" / "x", Path("/proc/made/x"), tmp_path / ("x" * 300) / "y"):
        with pytest.raises(PathError, match=str(url.parent)):
            files.put_bytes(str(url), b"")


def test_move(place: str) -> None:
    files.put_bytes(f"{place}/deep/a", b"1")
    files.put_bytes(f"{place}/deep/b", b"2")
    files.move(f"{place}/deep/a", f"{place}/new/c")
    assert files.read(f"{place}/new/c") == b"1"
    assert files.names(f"{place}/deep") == {"b": 1}
    files.move(f"{place}/deep/b", f"{place}/new/c")
    assert files.read(f"{place}/new/c") == b"2"


def test_remove(place: str) -> None:
    for name in ("a", "b", "sub/c", "sub/deep/d"):
        files.put_bytes(f"{place}/{name}", b"x")
    files.remove(f"{place}/a")
    files.remove(f"{place}/sub")
    files.remove(f"{place}/sub")
    assert files.names(place) == {"b": 1}
    assert not files.exists(f"{place}/sub/c")
    assert not files.exists(f"{place}/sub")


def test_names_that_look_like_patterns(place: str) -> None:
    """Move and remove only the named file."""
    for name in ("a*", "ab", "[0-2]/x", "0/x", "{a,b}?", "sub/x", "sub2/x"):
        files.put_bytes(f"{place}/{name}", name.encode())
    files.move(f"{place}/[0-2]/x", f"{place}/[3]/y?")
    assert files.read(f"{place}/[3]/y?") == b"[0-2]/x" and not files.exists(f"{place}/[0-2]/x")
    for name in ("a*", "[3]", "{a,b}?", "sub"):
        files.remove(f"{place}/{name}")
        assert not files.exists(f"{place}/{name}")
    assert [files.read(f"{place}/{name}") for name in ("ab", "0/x", "sub2/x")] == [b"ab", b"0/x", b"sub2/x"]


def test_local(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "settings", lambda: Settings(scratch=tmp_path / "scratch"))
    url = f"{place}/x.tar"
    files.put_bytes(url, b"content")
    with files.local(url) as path:
        assert path.name == "x.tar"
        assert path.read_bytes() == b"content"
        assert (path.parent.parent == tmp_path / "scratch") == url.startswith("s3")
    assert path.exists() != url.startswith("s3")
    assert list((tmp_path / "scratch").iterdir() if (tmp_path / "scratch").exists() else []) == []


def test_stored(place: str) -> None:
    url = f"{place}/x"
    ref = files.put_bytes(url, b"content")
    with stored.local(ref) as path:
        assert path.read_bytes() == b"content"
    files.put_bytes(url, b"contenT")
    with pytest.raises(DamagedFile, match=r"digest .*; remove it, then run `made retry`"), stored.local(ref):
        pass
    files.put_bytes(url, b"conten")
    with pytest.raises(DamagedFile, match="has 6 bytes, not 7"), stored.local(ref):
        pass
    files.remove(url)
    with pytest.raises(DamagedFile, match="is missing"), stored.local(ref):
        pass


def test_stored_reports_only_its_own_file(tmp_path: Path) -> None:
    ref = files.put_bytes(str(tmp_path / "x"), b"content")
    with pytest.raises(FileNotFoundError), stored.local(ref):
        (tmp_path / "another").read_bytes()


def test_digest(tmp_path: Path) -> None:
    """For files longer than the chunks in which they are read."""
    data = bytes(range(256)) * 4097 * 2
    ref = files.put_bytes(str(tmp_path / "x"), data)
    assert ref.digest == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert replace(ref, digest="", blocks="") == FileRef(str(tmp_path / "x"), len(data), "", "")


@pytest.mark.integration
def test_another_process_changes_the_store(s3: str, client: Any) -> None:
    """Listings are never cached: other workers put and remove files."""
    files.put_bytes(f"{s3}/a", b"1")
    assert files.names(s3) == {"a": 1}
    client.put_object(Bucket=BUCKET, Key="folder/b", Body=b"22")
    assert files.names(s3) == {"a": 1, "b": 2}
    assert files.size(f"{s3}/b") == 2
    client.put_object(Bucket=BUCKET, Key="folder/c", Body=b"333")
    assert files.exists(f"{s3}/c")
    assert files.glob(f"{s3}/*") == [f"{s3}/a", f"{s3}/b", f"{s3}/c"]
    client.delete_object(Bucket=BUCKET, Key="folder/a")
    assert not files.exists(f"{s3}/a")
    client.put_object(Bucket=BUCKET, Key="folder/d", Body=b"4")
    files.move(f"{s3}/d", f"{s3}/e")
    files.remove(f"{s3}/b")
    assert files.names(s3) == {"c": 3, "e": 1}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/a/../b/", "/b"),
        ("file:///a/b", "/a/b"),
        ("local:///a/b", "/a/b"),
        ("~/x", "/home/somebody/x"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("rel/x", "/work-folder/rel/x"),
    ],
)
def test_absolute(url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(os, "getcwd", lambda: "/work-folder")
    assert files.absolute(url) == expected
    assert files.absolute(expected) == expected
