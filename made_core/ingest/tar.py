"""Reads and writes tars of samples, without dropping a member.

As in webdataset, a sample consists of the members with the same name up to the first dot, its key.
Unlike in webdataset, they need not be adjacent, and a key whose suffixes repeat is two samples.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path

from made_core.errors import CorruptShard, StorageFailed
from made_core.ingest.tar_headers import BLOCK, Headers

IMAGES = ("jpg", "png", "jpeg", "webp")  # of several images, open_clip trains on the first in this order
# bytes: a sample that spans no more is read at once. Each read gives the lock of Python to another thread.
AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    suffix: str  # the name after its first dot, as written
    offset: int  # of its data, in bytes
    size: int  # bytes


@dataclass
class Entry:
    """The position of a sample in a tar."""

    row: int  # 0 for the first sample of the tar
    key: str
    is_repeat: bool = False  # an earlier sample of the tar has the same key
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    """The content of a tar."""

    entries: tuple[Entry, ...]  # in the order of their first members
    stray: int  # members that belong to no sample: folders, links, names without a dot or with a zero byte


@dataclass(frozen=True)
class Sample:
    """A sample's bytes."""

    key: str  # webdataset's __key__
    url: str  # webdataset's __url__
    members: dict[str, bytes]  # suffix as written -> content, in tar order

    def get(self, *suffixes: str) -> bytes | None:
        """The member with the first of these lower-case suffixes, ignoring case; None if there is none."""
        suffix = self._written(suffixes)
        return None if suffix is None else self.members[suffix]

    def _written(self, suffixes: Sequence[str]) -> str | None:
        """The first of these suffixes that a member has, as written; in tar order if they differ in case."""
        found = [s for s in self.members if s.lower() in suffixes]
        return min(found, key=lambda s: suffixes.index(s.lower()), default=None)

    @property
    def image(self) -> bytes | None:
        """The bytes of the image; None if there is none."""
        return self.get(*IMAGES)

    @cached_property
    def digests(self) -> dict[str, bytes]:
        """Suffix as written -> blake2b-128 of the content."""
        return {s: hashlib.blake2b(data, digest_size=16).digest() for s, data in self.members.items()}

    @property
    def image_digest(self) -> bytes | None:
        """16 bytes: blake2b-128 of the image; None if there is none."""
        suffix = self._written(IMAGES)
        return None if suffix is None else self.digests[suffix]

    @property
    def content_digest(self) -> bytes:
        """16 bytes: blake2b-128 over the suffixes, sizes and digests of all members."""
        state = hashlib.blake2b(digest_size=16)
        for suffix, data in self.members.items():
            state.update(b"%s\n%d\n" % (suffix.encode("utf-8", "surrogateescape"), len(data)))
            state.update(self.digests[suffix])
        return state.digest()


def index(path: Path) -> Index:
    """The samples of a tar, read from its headers.

    Raises:
        CorruptShard: the file is empty, not a tar, ends inside a member or has no end-of-archive
            marker (without the last check 5-7 % of truncated tars would pass).
        StorageFailed: the disk or its network failed; a retry may succeed.
    """
    from webdataset.tariterators import base_plus_ext  # here: it imports torch, which a flow does not need

    size = path.stat().st_size
    if size == 0:
        raise CorruptShard(f"{path.name} is empty")
    entries: list[Entry] = []
    latest: dict[str, Entry] = {}
    stray = 0
    try:
        with Headers(path) as headers:
            at = -1
            while (header := headers.next()) is not None:
                if header.data <= at:
                    raise CorruptShard(f"{path.name}: the header at byte {header.start} points backwards")
                at = header.data
                key, suffix = base_plus_ext(header.name)
                nul = "\0" in header.name  # possible in PAX, not in the headers that we write
                if not header.is_file or nul or key is None or suffix is None:
                    stray += 1
                    continue
                if not 0 <= header.size <= size - header.data:
                    raise CorruptShard(f"{path.name} is cut off inside {header.name!r}")
                entry = latest.get(key)
                if entry is None or any(m.suffix == suffix for m in entry.members):
                    entry = latest[key] = Entry(len(entries), key, entry is not None)
                    entries.append(entry)
                entry.members.append(Member(suffix, header.data, header.size))
            end = headers.end
    except OSError as error:
        if error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):  # these come from invalid headers
            raise StorageFailed(f"{path}: {error}") from error
        raise CorruptShard(f"{path.name}: {error}") from None
    except (
        tarfile.TarError,
        ValueError,
        LookupError,
        OverflowError,
        EOFError,
        RecursionError,
    ) as error:
        raise CorruptShard(f"{path.name}: {error}") from None
    with open(path, "rb") as tail:
        tail.seek(end)
        marker = tail.read(BLOCK)
    if marker != bytes(BLOCK):
        what = "garbage" if len(marker) == BLOCK else "no end-of-archive marker"
        raise CorruptShard(f"{path.name}: {what} at byte {end} of {size}: truncated or damaged")
    return Index(tuple(entries), stray)


def load(descriptor: int, entry: Entry, url: str) -> Sample:
    """The sample's bytes from an open tar; safe from several threads.

    Raises:
        CorruptShard: the file has become shorter since it was indexed.
        StorageFailed: the disk or its network failed; a retry may succeed.
    """
    start = min(member.offset for member in entry.members)
    length = max(member.offset + member.size for member in entry.members) - start
    try:
        if length <= AT_ONCE:
            data = _read(descriptor, length, start)
            members = {m.suffix: data[m.offset - start : m.offset - start + m.size] for m in entry.members}
        else:
            members = {m.suffix: _read(descriptor, m.size, m.offset) for m in entry.members}
    except OSError as error:
        raise StorageFailed(f"{url}: {error}") from error
    for member in entry.members:
        if len(members[member.suffix]) < member.size:
            raise CorruptShard(f"{url} ends inside {entry.key}.{member.suffix}")
    return Sample(entry.key, url, members)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """These bytes; fewer where the file ends."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:  # one read returns at most 2 GiB
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def write(path: Path, samples: Iterable[Sample]) -> None:
    """Writes a tar of `samples`, the members of each adjacent; equal samples give equal bytes.

    webdataset's TarWriter is not used: it sorts a sample's members and gives them an owner.
    """
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            for suffix, data in sample.members.items():
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size = len(data)
                info.mode = 0o444
                tar.addfile(info, BytesIO(data))
