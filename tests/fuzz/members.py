"""Damage to the members of a tar: names, order, json, captions. The tar itself is valid."""

from __future__ import annotations

import random
import tarfile
from io import BytesIO

from tests.fuzz.tars import FORMATS, NAMES, Damage, Damaged, Files, keys
from tests.support.factories import tar_bytes

JSON = (
    b"", b"{", b"null", b"[]", b"3", b'"text"', b"{no json}", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{}{}",
    b"\0", b'{"uid": NaN}', b'{"uid": 1e999}', b'{"uid": ' + b"7" * 4000 + b"}",
    b'{"uid": ' + b"7" * 5000 + b"}",
    b'{"uid": null, "caption": 5, "url": ["x"]}', b'{"uid": ""}', b'{"uid": false}', b'{"uid": {"a": []}}',
    b'{"uid": "\\ud800", "caption": "\\udfff", "url": "\\ud800"}', b'{"uid": "u", "uid": "v"}',
    b'{"uid": "\\u0000"}', b'{"caption": "' + b"c" * 200_000 + b'"}', b"9" * 100_000,
)  # fmt: skip
CAPTIONS = (
    b"",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"caf\xe9",
    b"\0\0",
    b"a\r\nb\n",
    b"w " * 100_000,
    b"\xf0\x9f\x98\x80",
)
DEPTHS = (5, 330, 490, 980, 990, 995, 1000, 1200, 100_000)


def _changed(files: Files, at: int, data: bytes | None) -> Damaged:
    """The members with another content of one of them, or without it (None)."""
    name = files[at][0]
    changed = [*files[:at], *([] if data is None else [(name, data)]), *files[at + 1 :]]
    return tar_bytes(changed), True, keys(files, name.split(".")[0])


def _of_kind(dice: random.Random, files: Files, suffix: str) -> int:
    return dice.choice([i for i, (name, _) in enumerate(files) if name.endswith(suffix)])


def bad_json(dice: random.Random, files: Files) -> Damaged:
    """A json that is not valid, deeply nested, or has unexpected values."""
    depth = dice.choice(DEPTHS)
    left, right = dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nested = left * depth + b"1" + right * depth
    some = [nested, b'{"uid": ' + nested + b"}", b'{"caption": ' + nested + b"}"]
    at, data = _of_kind(dice, files, ".json"), dice.choice([*JSON, *some * 3])
    if dice.random() < 0.5:  # without a txt, so that the json's caption is used
        less = files[at][0].replace(".json", ".txt")
        files = [f for f in files if f[0] != less]  # it came later, so `at` is still valid
    return _changed(files, at, data)


def bad_caption(dice: random.Random, files: Files) -> Damaged:
    """A caption that is not text, empty or long."""
    caption = dice.choice([*CAPTIONS, dice.randbytes(50)])
    return _changed(files, _of_kind(dice, files, ".txt"), caption)


def missing(dice: random.Random, files: Files) -> Damaged:
    """A sample without one of its members."""
    return _changed(files, dice.randrange(len(files)), None)


def emptied(dice: random.Random, files: Files) -> Damaged:
    """An empty member."""
    return _changed(files, dice.randrange(len(files)), b"")


def shuffled(dice: random.Random, files: Files) -> Damaged:
    """Members of a sample not adjacent, in their order."""
    lanes: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in files:
        lanes.setdefault(name.split(".")[0], []).append((name, data))
    turns = [name.split(".")[0] for name, _ in files]
    dice.shuffle(turns)
    return tar_bytes([lanes[turn].pop(0) for turn in turns], dice.choice(FORMATS)), True, keys(files)


def repeated(dice: random.Random, files: Files) -> Damaged:
    """A repeated key with the same or other members."""
    at = dice.randrange(len(files))
    key = files[at][0].split(".")[0]
    again = [f for f in files if f[0].startswith(key)] if dice.random() < 0.5 else [(files[at][0], b"x")]
    return tar_bytes([*files, *again * dice.randint(1, 30)]), True, keys(files, key)


def strays(dice: random.Random, files: Files) -> Damaged:
    """Folders, links, devices and names that belong to no sample, between the samples."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dice.choice(FORMATS)) as tar:
        for name, data in files:
            info = tarfile.TarInfo(dice.choice(["folder.d", "README", ".hidden", "a/b", "000000000.png"]))
            info.type = dice.choice([b"5", b"2", b"1", b"3", b"4", b"6"])
            if info.name in ("README", ".hidden", "a/b"):
                info.type = dice.choice([b"0", info.type])
            info.linkname = dice.choice(["", "000000000.jpg", "/etc/passwd"])
            tar.addfile(info)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return buffer.getvalue(), True, keys(files)


def named(dice: random.Random, files: Files) -> Damaged:
    """Long, non-ASCII and invalid names among the others; PAX can store all of them."""
    name = dice.choice(NAMES)
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    strange = [(text, data) for _, data in dice.sample(list(files), dice.randint(1, 3))]
    strange += [(text + dice.choice(["", "x", ".json", "\0b"]), b"{}")]
    where = dice.randrange(len(files) + 1)
    mixed = [*files[:where], *strange, *files[where:]]
    return tar_bytes(mixed, dice.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])), True, keys(files)


MEMBERS: tuple[Damage, ...] = (
    bad_json, bad_json, bad_caption, missing, emptied, shuffled, repeated, strays, named, named,
)  # fmt: skip
