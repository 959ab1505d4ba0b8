"""Images and kinds of damage to them, all driven by the given random generator."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from tests.support.factories import encoded_image

Damage = Callable[[random.Random, bytes], bytes]

SUFFIXES = ("jpg", "jpeg", "png", "webp")
EDGES = (0, 1, 2, 3, 255, 256, 4096, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _image(seed: int, mode: str = "RGB") -> Image.Image:
    return Image.open(BytesIO(encoded_image(seed, format="PNG"))).convert(mode)


def _frames(seed: int, count: int, format: str) -> bytes:
    frames = [_image(seed + n).resize((16, 12)) for n in range(count)]
    return _saved(frames[0], format, save_all=True, append_images=frames[1:], duration=20)


def _turned(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = seed % 8 + 1  # orientation
    exif[0x010E] = "described " * (seed % 50)
    return _saved(_image(seed), "JPEG", exif=exif)


def _wide_greys(seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 65536, (24, 32), np.uint16)
    return _saved(Image.fromarray(values), "PNG")


KINDS: dict[str, Callable[[int], bytes]] = {
    "jpeg": lambda seed: encoded_image(seed),
    "jpeg, grey": lambda seed: encoded_image(seed, mode="L"),
    "jpeg, CMYK": lambda seed: encoded_image(seed, mode="CMYK"),
    "jpeg, progressive": lambda seed: _saved(_image(seed), "JPEG", progressive=True),
    "jpeg, turned": _turned,
    "png": lambda seed: encoded_image(seed, format="PNG"),
    "png, palette": lambda seed: encoded_image(seed, format="PNG", mode="P"),
    "png, transparent": lambda seed: encoded_image(seed, format="PNG", mode="RGBA"),
    "png, 1 bit": lambda seed: encoded_image(seed, format="PNG", mode="1"),
    "png, 16 bit": _wide_greys,
    "png, animated": lambda seed: _frames(seed, 3, "PNG"),
    "webp": lambda seed: encoded_image(seed, format="WEBP"),
    "webp, lossless": lambda seed: _saved(_image(seed, "RGBA"), "WEBP", lossless=True),
    "webp, animated": lambda seed: _frames(seed, 3, "WEBP"),
    "gif": lambda seed: encoded_image(seed, format="GIF", mode="P"),
    "gif, animated": lambda seed: _frames(seed, 3, "GIF"),
    "bmp": lambda seed: encoded_image(seed, format="BMP"),
    "bmp, palette": lambda seed: encoded_image(seed, format="BMP", mode="P"),
}


@cache
def whole(kind: str, seed: int) -> bytes:
    """An undamaged image of one of KINDS, at most 64 x 48."""
    return KINDS[kind](seed)


def flipped(dice: random.Random, data: bytes) -> bytes:
    """A few flipped bits, often near the start."""
    result = bytearray(data)
    for _ in range(dice.randint(1, 8) if data else 0):
        at = dice.randrange(min(len(data), dice.choice([32, 256, len(data)])))
        result[at] ^= 1 << dice.randrange(8)
    return bytes(result)


def truncated(dice: random.Random, data: bytes) -> bytes:
    """Cut at any byte."""
    return data[: dice.randrange(len(data))]


def spliced(dice: random.Random, data: bytes) -> bytes:
    """A piece removed, repeated, blanked or replaced by noise."""
    start = dice.randrange(len(data))
    stop = min(len(data), start + dice.choice([1, 2, 4, 16, 100, 1000]))
    piece = data[start:stop]
    middle = dice.choice([b"", piece * 2, piece * 50, bytes(len(piece)), dice.randbytes(len(piece))])
    return data[:start] + middle + data[stop:]


def resized(dice: random.Random, data: bytes) -> bytes:
    """Another declared size: the decoded image would be far larger, or empty."""
    result = bytearray(data)
    width, height = dice.choice(EDGES), dice.choice(EDGES)
    if data[:4] == b"\x89PNG":
        result[16:24] = struct.pack(">II", width, height)
        result[29:33] = struct.pack(">I", zlib.crc32(result[12:29]))
    elif data[:2] == b"\xff\xd8":
        at = next(i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
        result[at + 5 : at + 9] = struct.pack(">HH", height % 65536, width % 65536)
    elif data[:3] == b"GIF":
        at = dice.choice([6, data.find(b"\x2c\0\0\0\0") + 5])
        result[at : at + 4] = struct.pack("<HH", width % 65536, height % 65536)
    elif data[:2] == b"BM":
        result[18:26] = struct.pack("<II", width, height)
    elif data[12:16] == b"VP8X":
        result[24:30] = struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3]
    elif data[12:16] == b"VP8 ":
        result[26:30] = struct.pack("<HH", width % 65536, height % 65536)
    else:  # VP8L: two sizes of 14 bits after one byte
        result[21:25] = struct.pack("<I", (width % 16384) | (height % 16384) << 14)
    return bytes(result)


def bomb(dice: random.Random, data: bytes) -> bytes:
    """A small file that is a large image, about as large as the limit on pixels."""
    side = dice.choice([90, 101, 300, 1000, 1001, 2500])
    shape = dice.choice([(side, side), (1, side * side), (side * side, 1)])
    kind = dice.choice(["PNG", "PNG", "GIF", "BMP"])
    if kind == "GIF" and max(shape) > 65535:
        kind = "PNG"
    return _saved(Image.new(dice.choice(["1", "L"]) if kind != "GIF" else "L", shape), kind)


def _chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunked(dice: random.Random, _: bytes) -> bytes:
    """A PNG with texts, profiles or chunks that are huge, numerous, or decompress to huge data."""
    data = whole("png", dice.randrange(8))
    zeros = zlib.compress(bytes(dice.choice([1, 2, 20]) << 20))
    chunk = dice.choice([
        _chunk(b"zTXt", b"k\0\0" + zeros),
        _chunk(b"zTXt", b"k\0\0" + zeros) * 20,
        _chunk(b"iTXt", b"k\0\1\0\0\0" + zeros),
        _chunk(b"iCCP", b"k\0\0" + zeros),
        _chunk(b"tEXt", b"k\0" + bytes(1 << 20)),
        _chunk(b"tEXt", b"k\0v") * 2000,
        _chunk(b"eXIf", dice.randbytes(200)),
        _chunk(b"acTL", struct.pack(">II", dice.choice(EDGES), 0)),
        _chunk(b"PLTE", dice.randbytes(dice.choice([1, 768, 3000]))),
        _chunk(b"tRNS", dice.randbytes(dice.choice([0, 1, 5, 300]))),
        _chunk(dice.choice([b"zTXt", b"iCCP", b"IDAT", b"junk"]), b"k\0\0x", dice.choice(EDGES)),
    ])  # fmt: skip
    return data[:33] + chunk + data[33:]


def crowded(dice: random.Random, _: bytes) -> bytes:
    """Many frames."""
    return _frames(dice.randrange(4), dice.choice([40, 120]), dice.choice(["GIF", "WEBP", "PNG"]))


def segmented(dice: random.Random, _: bytes) -> bytes:
    """A JPEG with segments that have absurd values or are repeated many times."""
    progressive = dice.random() < 0.5
    data = whole("jpeg, progressive" if progressive else "jpeg", dice.randrange(8))
    frame = next(i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    scan = data.index(b"\xff\xda")
    choice = dice.randrange(6)
    if choice == 0:  # restart every so many blocks
        return data[:scan] + b"\xff\xdd\0\x04" + struct.pack(">H", dice.choice([1, 7, 65535])) + data[scan:]
    if choice == 1:  # bits, components, how they are sampled
        at, value = frame + dice.choice([4, 9, 11, 12, 14]), dice.choice([0, 1, 2, 5, 0x11, 0x44, 0xF1, 255])
        return data[:at] + bytes([value]) + data[at + 1 :]
    if choice == 2:  # scans without end
        return data[:-2] + data[scan:-2] * dice.choice([3, 100]) + b"\xff\xd9"
    if choice == 3:
        marker = bytes([0xFF, dice.choice([*range(0xC0, 0xFF)])])
        body = dice.choice([b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\2", b"Adobe", b""]) + dice.randbytes(60)
        length = dice.choice([len(body) + 2, 0, 1, 65535])
        return data[:2] + marker + struct.pack(">H", length) + body + data[2:]
    if choice == 4:  # megabytes of comments
        return data[:2] + (b"\xff\xfe\xff\xff" + b"c" * 65533) * 20 + data[2:]
    at = data.index(b"\xff\xc4") + dice.randint(2, 24)  # Huffman's tables
    return data[:at] + dice.randbytes(dice.randint(1, 6)) + data[at + 6 :]


def run_length(dice: random.Random, data: bytes) -> bytes:
    """A run-length encoded BMP, whose file size says little about its decoded size."""
    width, height = dice.choice([(64, 48), (1000, 900), (900_000, 1), (1, 900_000), (0, 5)])
    bits, codes = dice.choice([(8, 1), (4, 2)]), bytearray()
    for _ in range(dice.randrange(60)):
        codes += dice.choice(
            [b"\0\0", b"\0\2\xff\xff", b"\xff\x07", b"\x01\x02", b"\0\x09" + b"x" * 9, b"\0\1"]
        )
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, *bits, len(codes), 0, 0, 256, 0)
    offset = 14 + 40 + len(palette)
    file = struct.pack("<2sIHHI", b"BM", offset + len(codes), 0, 0, offset)
    return file + head + palette + bytes(codes)


def other(dice: random.Random, _: bytes) -> bytes:
    """No image, or the smallest possible one."""
    dot = Image.new(dice.choice(["RGB", "L", "1"]), dice.choice([(1, 1), (1, 3000), (3000, 1), (2, 1)]))
    return dice.choice([
        b"", b"\0", b"<html>" * 99, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM",
        b"RIFF\0\0\0\0WEBP", b"<svg/>", b"II*\0\x08\0\0\0", dice.randbytes(999),
        _saved(dot, dice.choice(["PNG", "JPEG", "BMP"])),
    ])  # fmt: skip


def kept(_: random.Random, data: bytes) -> bytes:
    """Unchanged, possibly with another name."""
    return data


DAMAGES: tuple[Damage, ...] = (
    flipped, flipped, flipped, truncated, truncated, spliced, spliced, resized, resized,
    bomb, chunked, crowded, segmented, segmented, run_length, other, kept,
)  # fmt: skip
