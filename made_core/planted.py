"""A sample data set whose duplicates are known, and the score of decisions against it.

Pictures are drawn, not downloaded. They come in families that share a palette and, to the last
digit, a mean colour, so that only their content tells them apart.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import math
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageEnhance

from made_core.errors import OutputError

Array = npt.NDArray[Any]  # of floats

FAMILY = 8  # pictures that share a scene, a palette and a mean colour
GROUPED = 0.22  # share of pictures that get copies; near half of the samples, then
EXACT = 0.2  # share of copies that are byte for byte
EPOCH = 1_700_000_000.0  # seconds; the clock of everything written here
ASPECTS = (1.0, 4 / 3, 3 / 4, 3 / 2, 16 / 9)  # width / height
PLACES = ("a quiet valley", "the old harbour", "an open field", "the studio", "a market square",
          "the north coast", "a private collection", "the workshop")  # fmt: skip
WORDS = ("morning light", "late autumn", "long exposure", "hand finished", "wide angle",
         "soft contrast", "early spring", "after the rain")  # fmt: skip
STRINGS = ("uid", "caption", "url", "key", "status", "error_message")
SIZES = ("width", "height", "original_width", "original_height")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in STRINGS]
    + [(name, pa.int32()) for name in SIZES]
    + [("exif", pa.string()), ("sha256", pa.string())]
)


@dataclass(frozen=True)
class Score:
    """How decisions compare with the truth. A share of nothing is 1."""

    precision: float  # of the dropped, represented in their own group
    recall: float  # of those that should go, dropped into their own group
    f1: float  # harmonic mean of the two
    planted: int  # samples that should go: group size - 1, summed
    dropped: int  # samples with a representative
    correct: int  # of these, with one in their own group


def score(truth: dict[str, Any], decisions: Iterable[tuple[str, bool, str | None]]) -> Score:
    """Compares decisions (uid, kept, uid that represents it or None) with `write`'s truth.

    Raises:
        ValueError: a uid that the truth does not know, one decided twice, or a sample that is kept
            and represented, or represented by itself.
    """
    groups: dict[str, int] = truth["groups"]
    planted = len(groups) - len(set(groups.values()))
    dropped = correct = 0
    seen: set[str] = set()
    for uid, kept, other in decisions:
        if uid not in groups or (other is not None and other not in groups):
            raise ValueError(f"no such uid in the truth: {uid}, represented by {other}")
        if other is not None and (kept or uid == other):
            raise ValueError(f"{uid} is kept={kept}, and yet represented by {other}")
        if uid in seen:
            raise ValueError(f"{uid} is decided twice")
        seen.add(uid)
        if other is not None:
            dropped += 1
            correct += groups[uid] == groups[other]
    precision = correct / dropped if dropped else 1.0
    recall = correct / planted if planted else 1.0
    both = precision + recall
    return Score(precision, recall, 2 * precision * recall / both if both else 0.0,
                 planted, dropped, correct)  # fmt: skip


def write(
    folder: Path, *, samples: int = 400, shards: int = 4, seed: int = 0, image_size: int = 256
) -> dict[str, Any]:
    """Writes `folder`/shards as img2dataset 1.47 would, and `folder`/truth.json; returns the truth.

    The truth: {"groups": {uid: group}, "exact": [[uid, uid], ...] of equal picture bytes, "seed",
    "samples"}; a picture without copies is a group of one. The longest side of a picture is at
    most `image_size` pixels. Beside the samples each shard's parquet has failed downloads. Equal
    arguments write equal bytes (with the same Pillow and pyarrow).

    Raises:
        OutputError: `folder` holds a sample already.
        ValueError: an argument out of bounds.
    """
    if samples < 2 or not 1 <= shards <= samples or seed < 0 or not 32 <= image_size <= 4096:
        raise ValueError(
            f"samples={samples}, shards={shards}, seed={seed}, image_size={image_size}; allowed: "
            "samples >= 2, shards 1 to samples, seed >= 0, image_size 32 to 4096"
        )
    target = folder / "shards"
    if (folder / "truth.json").exists() or (target.exists() and any(target.iterdir())):
        raise OutputError(f"{folder} holds a sample already")
    target.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(seed)
    rows, groups, exact = _samples(rng, samples, image_size)
    rows += [_failure(rng, i) for i in range(max(shards, samples // 40))]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    per_shard = math.ceil(len(rows) / shards)
    for shard, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        _write_shard(target, shard, [shuffled[i] for i in part], per_shard, rng)
    truth = {"groups": groups, "exact": exact, "seed": seed, "samples": samples}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return truth


Row = tuple[dict[str, Any], bytes | None]  # a parquet row still without its key, and the picture


def _samples(
    rng: np.random.Generator, samples: int, image_size: int
) -> tuple[list[Row], dict[str, int], list[list[str]]]:
    rows: list[Row] = []
    groups: dict[str, int] = {}
    exact: list[list[str]] = []
    family: _Family | None = None
    number = 0
    while len(rows) < samples:
        if family is None or number % FAMILY == 0:
            family = _Family(rng)
        grouped = number == 0 or rng.random() < GROUPED
        size = min(int(rng.integers(2, 7)) if grouped else 1, samples - len(rows))
        picture = family.picture(rng, image_size)
        seen: dict[bytes, list[str]] = {}
        for i in range(size):
            copied = i > 0 and (rng.random() < EXACT or (number == 0 and i == 1))
            data = list(seen)[int(rng.integers(len(seen)))] if copied else _encoded(rng, picture, i)
            row = _success(rng, family, data)
            exact += [[uid, row["uid"]] for uid in seen.get(data, [])]
            seen.setdefault(data, []).append(row["uid"])
            groups[row["uid"]] = number
            rows.append((row, data))
        number += 1
    return rows, groups, exact


class _Family:
    """A scene, a palette and a mean colour, in which pictures are drawn."""

    def __init__(self, rng: np.random.Generator) -> None:
        names = sorted(_SCENES)
        self.name = names[int(rng.integers(len(names)))]
        self.place = PLACES[int(rng.integers(len(PLACES)))]
        hue, spread = rng.random(), rng.uniform(0.05, 0.4)
        colours = [
            colorsys.hsv_to_rgb((hue + spread * rng.uniform(-1, 1)) % 1, rng.uniform(0.15, 0.8), value)
            for value in np.linspace(0.15, 0.95, 5)
        ]
        self.palette = np.array(colours, dtype=np.float32)[rng.permutation(5)]

    def picture(self, rng: np.random.Generator, image_size: int) -> Image.Image:
        """One more picture of the family, its longest side `image_size`."""
        aspect = ASPECTS[int(rng.integers(len(ASPECTS)))]
        width = round(image_size * min(1, aspect))
        height = round(image_size * min(1, 1 / aspect))
        field = _SCENES[self.name](rng, height, width)
        stops = np.linspace(0, 1, len(self.palette))
        pixels = np.stack([np.interp(field, stops, c) for c in self.palette.T], -1)
        pixels = self._objects(rng, pixels)
        pixels += 0.12 * (_noise(rng, height, width, 3, 7) - 0.5)[..., None]
        for _ in range(4):  # clipping moves the mean again, each time less
            pixels = (pixels + (self.palette.mean(0) - pixels.mean((0, 1)))).clip(0, 1)
        return Image.fromarray((pixels * 255).round().astype(np.uint8))

    def _objects(self, rng: np.random.Generator, pixels: Array) -> Array:
        image = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(3, 8))):
            x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
            reach = rng.uniform(0.05, 0.22) * max(image.size)
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
            corners = [(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles]
            colour = self.palette[int(rng.integers(len(self.palette)))] * 255
            fill = (int(colour[0]), int(colour[1]), int(colour[2]))
            if rng.random() < 0.4:
                flat = rng.uniform(0.4, 1)
                draw.ellipse((x - reach, y - reach * flat, x + reach, y + reach * flat), fill)
            else:
                draw.polygon(corners, fill)
        return np.asarray(image).astype(np.float32) / 255


def _noise(rng: np.random.Generator, height: int, width: int, first: int, last: int) -> Array:
    """Octaves of noise with amplitudes 1/f, as in photographs; (height, width), about 0 to 1."""
    total: Array = np.zeros((height, width), dtype=np.float32)
    for octave in range(first, last):
        grid = rng.random((2**octave + 1, 2**octave + 1), dtype=np.float32) - 0.5
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * 2.0 ** (first - octave)
    return total * 0.8 + 0.5


def _grid(height: int, width: int) -> tuple[Array, Array]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    return y, x


def _hills(rng: np.random.Generator, height: int, width: int) -> Array:
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    field = 0.3 * y + 0.15 * _noise(rng, height, width, 1, 4)
    levels = np.sort(rng.uniform(0.15, 0.9, int(rng.integers(3, 6))))
    for i, level in enumerate(levels):
        ridge = level + rng.uniform(0.2, 0.6) * (_noise(rng, 1, width, 1, 6) - 0.5)
        ground = (i + 1) / len(levels) + 0.2 * (_noise(rng, height, width, 3, 5) - 0.5)
        field = np.where(y > ridge, ground, field)
    return field


def _marble(rng: np.random.Generator, height: int, width: int) -> Array:
    y, x = _grid(height, width)
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 9)
    along = x * math.cos(angle) + y * math.sin(angle)
    bent = along * waves + 2 * _noise(rng, height, width, 1, 6)
    field: Array = 0.5 + 0.5 * np.sin(2 * np.pi * bent)
    return field


def _clouds(rng: np.random.Generator, height: int, width: int) -> Array:
    return _noise(rng, height, width, 1, 7)


def _stones(rng: np.random.Generator, height: int, width: int) -> Array:
    y, x = _grid(height, width)
    field = np.zeros((height, width), dtype=np.float32)
    nearest = np.full((height, width), 9, dtype=np.float32)
    for _ in range(int(rng.integers(8, 25))):
        distance = (x - rng.random()) ** 2 + (y - rng.random()) ** 2
        closer = distance < nearest
        field[closer] = rng.random()
        nearest = np.minimum(nearest, distance)
    return field + 0.25 * (_noise(rng, height, width, 2, 5) - 0.5)


def _blocks(rng: np.random.Generator, height: int, width: int) -> Array:
    field = 0.4 * _noise(rng, height, width, 1, 5)
    for _ in range(int(rng.integers(8, 20))):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        tall, wide = (int(rng.uniform(0.08, 0.4) * side) for side in (height, width))
        field[top : top + tall, left : left + wide] = rng.random()
    return field


def _rings(rng: np.random.Generator, height: int, width: int) -> Array:
    y, x = _grid(height, width)
    field = 0.5 * _noise(rng, height, width, 1, 5)
    for _ in range(3):
        cx, cy = rng.random(), rng.random()
        waves = rng.uniform(3, 9) * 2 * np.pi
        radius = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
        field += 0.4 * np.sin(radius * waves) * np.exp(-4 * radius)
    return field + 0.25


_SCENES = {
    "hills": _hills,
    "marble": _marble,
    "clouds": _clouds,
    "stones": _stones,
    "blocks": _blocks,
    "rings": _rings,
}


def _encoded(rng: np.random.Generator, picture: Image.Image, copy: int) -> bytes:
    """JPEG: the picture itself for copy 0, else edited lightly."""
    quality = 92
    if copy:
        quality = int(rng.integers(35, 91))
        if rng.random() < 0.5:
            cut = rng.uniform(0, 0.05, 4) * (*picture.size, *picture.size)
            right, low = picture.width - cut[2], picture.height - cut[3]
            picture = picture.crop((round(cut[0]), round(cut[1]), round(right), round(low)))
        if rng.random() < 0.7:
            scale = rng.uniform(0.5, 0.95)
            size = (max(8, round(picture.width * scale)), max(8, round(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        if rng.random() < 0.7:
            for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                picture = enhancer(picture).enhance(rng.uniform(0.88, 1.12))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _success(rng: np.random.Generator, family: _Family, data: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    uid = rng.bytes(16).hex()
    caption = f"{family.name} at {family.place}, {WORDS[int(rng.integers(len(WORDS)))]}"
    return {
        "uid": uid,
        "caption": None if rng.random() < 0.02 else caption,  # alt texts are missing at times
        "url": f"https://pictures.example/{uid[:2]}/{uid}.jpg",
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": 2 * width,
        "original_height": 2 * height,
        "exif": "{}",
        # img2dataset hashes what it downloaded, which is not what it stores.
        "sha256": hashlib.sha256(b"as downloaded" + data).hexdigest(),
    }


def _failure(rng: np.random.Generator, number: int) -> Row:
    uid = rng.bytes(16).hex()
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    undecodable = number % 5 == 4
    row |= {
        "uid": uid,
        "caption": f"no longer at {PLACES[number % len(PLACES)]}",
        "url": f"https://pictures.example/gone/{uid}.jpg",
        "status": "failed_to_resize" if undecodable else "failed_to_download",
        "error_message": "Image decoding error" if undecodable else "HTTP Error 404: Not Found",
    }
    return row, None


def _write_shard(
    folder: Path, shard: int, rows: Sequence[Row], per_shard: int, rng: np.random.Generator
) -> None:
    name = f"{shard:05d}"
    digits = math.ceil(math.log10(per_shard))
    table: list[dict[str, Any]] = []
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        # Downloads end near the order in which they began.
        for i in np.argsort(np.arange(len(rows)) + rng.uniform(0, 4, len(rows))):
            values, data = rows[i]
            key = f"{10**digits * shard + int(i):0{digits + 5}d}"
            row = {column: key if column == "key" else values[column] for column in SCHEMA.names}
            table.append(row)
            if data is None:
                continue
            members = {
                "jpg": data,
                "json": json.dumps(row, indent=4).encode(),
                "txt": (row["caption"] or "").encode(),
            }
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime, info.mode = len(content), EPOCH + len(table) / 8, 0o444
                info.uname = info.gname = "bigdata"
                tar.addfile(info, io.BytesIO(content))
    pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), folder / f"{name}.parquet")
    states = Counter(row["status"] for row in table)
    stats = {
        "count": len(table),
        "successes": states["success"],
        "failed_to_download": states["failed_to_download"],
        "failed_to_resize": states["failed_to_resize"],
        "duration": len(table) / 8,
        "start_time": EPOCH,
        "end_time": EPOCH + len(table) / 8,
        "status_dict": dict(Counter(row["error_message"] or "success" for row in table)),
    }
    # Last: it marks the shard as finished.
    (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4), encoding="utf-8")
