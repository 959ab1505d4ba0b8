"""Damage to tars: to their blocks, headers and member contents.

A damage function gets the members of a tar. It returns another tar, whether that must be readable (True),
must be refused (False) or may be either (None), and the keys whose samples must be unchanged.
"""

from __future__ import annotations

import gzip
import random
import struct
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO

from made_core.ingest.tar_headers import BLOCK
from tests.support.factories import tar_bytes

Files = Sequence[tuple[str, bytes]]
Damaged = tuple[bytes, bool | None, tuple[str, ...]]
Damage = Callable[[random.Random, Files], Damaged]

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
SIZES = (-(2**63), -BLOCK, -1, 0, 1, 511, 512, 10**6, 2**31, 2**33 - 1, 2**40, 2**63 - 1, 2**63, 2**88)
TYPES = b"\0" + b"01234567LKSxgXVMNZ"
NAMES = (
    b"\xff\xfe.jpg", "k" * 150 + ".jpg", "ü" * 80 + ".jpg", "0.jpg\n", "a\nb.jpg", "a b'\"\\.jpg",
    "/../x.jpg", "x/.jpg", "." * 300, "k." + "s" * 300, "k.jpg/", "k\0k.jpg", "k.jpg\0x", "", " ",
    "\U0001f600.jpg",
)  # fmt: skip


def keys(files: Files, *less: str) -> tuple[str, ...]:
    """The keys of the samples except some."""
    return tuple(dict.fromkeys(k for name, _ in files if (k := name.split(".")[0]) not in less))


def _end(data: bytes) -> int:
    """The offset of the end-of-archive marker."""
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        tar.getmembers()
        return tar.offset


def _headers(data: bytes) -> list[int]:
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        return [at for info in tar.getmembers() for at in {info.offset, info.offset_data - BLOCK}]


def _with_checksum(data: bytearray, at: int) -> None:
    """Corrects a header's checksum."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])


def _header(name: bytes, kind: bytes, size: int, rest: bytes = b"") -> bytes:
    block = bytearray(BLOCK)
    block[: len(name[:100])] = name[:100]
    block[100:124] = b"0000644\0" * 3
    block[124:136] = _size(size)
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(rest)] = rest[: BLOCK - 345]
    _with_checksum(block, 0)
    return bytes(block)


def _size(value: int) -> bytes:
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return (value % 2**96 | (2**95 if value >= 0 else 0)).to_bytes(12, "big")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def flipped(dice: random.Random, files: Files) -> Damaged:
    """Flipped bits anywhere; sometimes the checksums are corrected."""
    data = bytearray(tar_bytes(files, dice.choice(FORMATS)))
    headers = _headers(bytes(data))
    for _ in range(dice.randint(1, 8)):
        at = dice.choice([dice.randrange(len(data)), dice.choice(headers) + dice.randrange(BLOCK)])
        data[at] ^= 1 << dice.randrange(8)
    if dice.random() < 0.5:
        for at in headers:
            _with_checksum(data, at)
    return bytes(data), None, ()


def truncated(dice: random.Random, files: Files) -> Damaged:
    """Cut at any byte before the end marker is complete, often at a block."""
    data = tar_bytes(files, dice.choice(FORMATS))
    cut = dice.randrange(_end(data) + BLOCK)
    return data[: cut // BLOCK * BLOCK if dice.random() < 0.5 else cut], False, ()


def blocks(dice: random.Random, files: Files) -> Damaged:
    """Blocks removed, repeated, swapped, zeroed or copied from elsewhere."""
    data = tar_bytes(files, dice.choice(FORMATS))
    cut = [data[i : i + BLOCK] for i in range(0, _end(data) + 2 * BLOCK, BLOCK)]
    at, other, count = dice.randrange(len(cut)), dice.randrange(len(cut)), dice.randint(1, 4)
    cut[at : at + count] = dice.choice([
        [], cut[at : at + count] * 2, cut[other : other + count], [bytes(BLOCK)] * count,
        [dice.randbytes(BLOCK)] * count,
    ])  # fmt: skip
    return b"".join(cut), None, ()


def fields(dice: random.Random, files: Files) -> Damaged:
    """A changed size, type, name or other field of a header; its checksum is usually corrected."""
    data = bytearray(tar_bytes(files, dice.choice(FORMATS)))
    at = dice.choice(_headers(bytes(data)))
    field = dice.randrange(5)
    if field == 0:
        data[at + 124 : at + 136] = _size(dice.choice(SIZES))
    elif field == 1:
        data[at + 156] = dice.choice([*TYPES, dice.randrange(256)])
        data[at + 124 : at + 136] = _size(dice.choice([0, 100, *SIZES]))
    elif field == 2:
        name = dice.choice(NAMES)
        raw = (name if isinstance(name, bytes) else name.encode())[:100]
        data[at : at + 100] = raw.ljust(100, b"\0")
    else:
        start, stop = dice.choice([(124, 136), (148, 156), (257, 265), (345, 500), (100, 136), (483, 512)])
        data[at + start : at + stop] = dice.choice([
            dice.randbytes(stop - start), b"\xff" * (stop - start), b" " * (stop - start),
            bytes(stop - start), b"9" * (stop - start), b"-1".ljust(stop - start),
        ])  # fmt: skip
    if dice.random() < 0.9:
        _with_checksum(data, at)
    return bytes(data), None, ()


def announced(dice: random.Random, files: Files) -> Damaged:
    """Headers that announce others (PAX, GNU long names), with false values or thousands of them."""
    record = dice.choice([
        b"path=other.jpg", b"path=", b"path=\xff\xfe.jpg", b"path=a\0b.jpg", b"path=" + b"p" * 5000 + b".jpg",
        b"size=-1", b"size=1e3", b"size=" + b"9" * dice.choice([8, 30, 5000]), b"size=7", b"mtime=nan",
        b"hdrcharset=BINARY", b"GNU.sparse.size=x", b"GNU.sparse.map=0,1,2",
        b"GNU.sparse.map=" + b"1," * 3000,
        b"GNU.sparse.offset=1\n30 GNU.sparse.numbytes=9999999", b"GNU.sparse.major=1\n22 GNU.sparse.minor=0",
        b"=", b"comment=" + dice.randbytes(40), dice.randbytes(60),
    ])  # fmt: skip
    length = dice.choice([len(record) + len(str(len(record) + 4)) + 2, 0, 1, 3, 99999, 10**30])
    body = b"%d %s\n" % (length, record)
    kind = dice.choice([b"x", b"g", b"X", b"L", b"K"])
    if kind in b"LK":
        body = record + b"\0"
    size = dice.choice([len(body), len(body), len(body), *SIZES])
    one = _header(b"@announced", kind, size) + _padded(body)
    return one * dice.choice([1, 1, 1, 2, 50, 2000]) + tar_bytes(files), None, ()


def sparse(dice: random.Random, files: Files) -> Damaged:
    """Sparse files, old and new format, whose maps continue beyond the end."""
    data = tar_bytes(files)[: dice.choice([0, 10 * BLOCK])]
    pair_tasks = b"".join(b"%011o\0" % dice.choice([0, 1, 512, 8**11 - 1]) for _ in range(8))
    old = _header(
        b"0.jpg", b"S", dice.choice(SIZES), bytes(41) + pair_tasks + bytes([dice.randrange(2)]) + b"7" * 12
    )
    more = (pair_tasks * 6)[:504] + b"\1" + bytes(7)
    record = b"GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.name=0.jpg"
    pax = b"22 " + record + b"\n"
    new = _header(b"@", b"x", len(pax)) + _padded(pax) + _header(b"0.jpg", b"0", dice.choice([512, 1024]))
    body = _padded(dice.choice([b"3\n0\n1\n", b"9999999\n0\n1\n", b"\n", b"x\n", b"1\n" * 256, b"0" * 512]))
    tail = dice.choice([b"", bytes(2 * BLOCK), tar_bytes(files)])
    return data + dice.choice([old, old + more * dice.randrange(4), new, new + body]) + tail, None, ()


def ended(dice: random.Random, files: Files) -> Damaged:
    """An end marker of only one zero block, or arbitrary data after the marker."""
    data = tar_bytes(files, dice.choice(FORMATS))
    end = _end(data)
    rest = dice.choice(
        [b"", bytes(BLOCK), bytes(BLOCK) + dice.randbytes(3000), bytes(9 * BLOCK) + b"x", data]
    )
    return data[: end + BLOCK] + rest, True, keys(files)


def whole(dice: random.Random, files: Files) -> Damaged:
    """A file that is not a tar."""
    data = tar_bytes(files)
    head = struct.pack("<4sHHHHHIII", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0)
    return dice.choice([b"", b"x", gzip.compress(data), head + data, b"<html>" * 999]), False, ()


BLOCKS: tuple[Damage, ...] = (
    flipped, flipped, flipped, truncated, truncated, blocks, blocks, fields, fields, fields,
    announced, announced, sparse, ended, whole,
)  # fmt: skip
