"""tar -> samples and back, never dropping a member.

A sample is webdataset's: the members that share what stands before the name's first dot. Unlike
webdataset, members of a sample need not be adjacent, and a key met twice is two samples.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from pathlib import Path

from webdataset.tariterators import base_plus_ext

from made_core.errors import CorruptShard, StorageFailed

IMAGES = ("jpg", "jpeg", "png", "webp")
BLOCK = 512  # bytes, tar's
LONGEST = 1 << 20  # bytes of a header that holds a long name or PAX records


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    suffix: str  # what stands behind the name's first dot, as written
    offset: int  # of its data, bytes
    size: int  # bytes


@dataclass
class Entry:
    """A sample's place in a tar."""

    row: int  # 0 for the first sample of the tar
    key: str
    is_repeat: bool = False  # the tar has this key before
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True)
class Index:
    """What a tar holds."""

    entries: tuple[Entry, ...]  # in the order of their first members
    stray: int  # members that belong to no sample: folders, links, names without a dot or with a zero byte


@dataclass(frozen=True)
class Sample:
    """A sample's bytes."""

    key: str  # webdataset's __key__
    url: str  # webdataset's __url__
    members: dict[str, bytes]  # suffix as written -> content, in tar order

    def get(self, *suffixes: str) -> bytes | None:
        """The first member with one of these suffixes, in any case of letters."""
        return next((d for s, d in self.members.items() if s.lower() in suffixes), None)

    @property
    def image(self) -> bytes | None:
        """The image's bytes, None without one."""
        return self.get(*IMAGES)

    @property
    def content_digest(self) -> bytes:
        """16 bytes, blake2b-128 over all names and contents."""
        state = hashlib.blake2b(digest_size=16)
        for suffix, data in self.members.items():
            state.update(b"%s\n%d\n" % (suffix.encode("utf-8", "surrogateescape"), len(data)))
            state.update(data)
        return state.digest()


class _Headers(FileIO):
    """A tar of which only headers are read: what one claims to be long takes no memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LONGEST:
            raise tarfile.ReadError(f"a header claims {size} bytes, allowed: {LONGEST}")
        return super().read(size)


def _header(tar: tarfile.TarFile, file: FileIO, start: int) -> tarfile.TarInfo | None:
    """The header at byte `start`; None where none is: the end-of-archive marker, or damage.

    Not TarFile.next, which keeps every header in memory, and fails on Python 3.10 in an empty tar.
    """
    file.seek(start)
    try:
        return tarfile.TarInfo.fromtarfile(tar)
    except tarfile.HeaderError:
        return None


def index(path: Path) -> Index:
    """The samples of a tar, by its headers.

    Raises:
        CorruptShard: empty, no tar, a partial member, or no end-of-archive marker (5-7 % of
            truncated tars read as a clean end of file otherwise).
        StorageFailed: the disk or its network failed: that may pass.
    """
    size = path.stat().st_size
    if size == 0:
        raise CorruptShard(f"{path.name} is empty")
    entries: list[Entry] = []
    latest: dict[str, Entry] = {}
    stray = 0
    try:
        with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            at, end = -1, 0
            while (info := _header(tar, file, end)) is not None:
                if info.offset_data <= at:
                    raise CorruptShard(f"{path.name}: headers run backwards at byte {info.offset}")
                at, end = info.offset_data, tar.offset
                key, suffix = base_plus_ext(info.name)
                nul = "\0" in info.name  # PAX can hold it, the headers that we write cannot
                if not info.isreg() or info.issparse() or nul or key is None or suffix is None:
                    stray += 1
                    continue
                if not 0 <= info.size <= size - info.offset_data:
                    raise CorruptShard(f"{path.name} is cut off inside {info.name!r}")
                entry = latest.get(key)
                if entry is None or any(m.suffix == suffix for m in entry.members):
                    entry = latest[key] = Entry(len(entries), key, entry is not None)
                    entries.append(entry)
                entry.members.append(Member(suffix, info.offset_data, info.size))
    except OSError as error:
        if error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):  # these: a header that lies
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
        CorruptShard: the file shrank since it was indexed.
    """
    members = {}
    for member in entry.members:
        data = os.pread(descriptor, member.size, member.offset)
        while len(data) < member.size:  # a read stops at 2 GiB
            more = os.pread(descriptor, member.size - len(data), member.offset + len(data))
            if not more:
                raise CorruptShard(f"{url} ends inside {entry.key}.{member.suffix}")
            data += more
        members[member.suffix] = data
    return Sample(entry.key, url, members)


def write(path: Path, samples: Iterable[Sample]) -> None:
    """A tar of `samples`, their members adjacent and byte for byte; equal input, equal file.

    Not by webdataset's TarWriter, which sorts a sample's members and gives them an owner.
    """
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            for suffix, data in sample.members.items():
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size = len(data)
                info.mode = 0o444
                tar.addfile(info, BytesIO(data))
