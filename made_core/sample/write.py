"""A sample data set whose duplicates are known, and the score of decisions against it.

Images are drawn, not downloaded. They come in families that share a palette and, to the last
digit, a mean colour, so that only their content tells them apart.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from webdataset.writer import TarWriter

from made_core.errors import OutputError
from made_core.sample.draw import PLACES, Family, encoded

FAMILY = 8  # images that share a scene, a palette and a mean colour
GROUPED = 0.22  # share of images that get copies; near half of the samples, then
EXACT = 0.2  # share of copies that are byte for byte
EPOCH = 1_700_000_000.0  # seconds; the clock of everything written here
WORDS = ("morning light", "late autumn", "long exposure", "hand finished", "wide angle",
         "soft contrast", "early spring", "after the rain")  # fmt: skip
STRINGS = ("uid", "caption", "url", "key", "status", "error_message")
SIZES = ("width", "height", "original_width", "original_height")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in STRINGS]
    + [(name, pa.int32()) for name in SIZES]
    + [("exif", pa.string()), ("sha256", pa.string())]
)


def write_sample(
    folder: Path, *, samples: int = 400, shards: int = 4, seed: int = 0, image_size: int = 256
) -> dict[str, Any]:
    """Writes `folder`/shards as img2dataset 1.47 would, and `folder`/truth.json; returns the truth.

    The truth: {"groups": {uid: group}, "exact": [[uid, uid], ...] of equal image bytes, "seed",
    "samples"}; a image without copies is a group of one. The longest side of a image is at
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


Row = tuple[dict[str, Any], bytes | None]  # a parquet row still without its key, and the image


def _samples(
    rng: np.random.Generator, samples: int, image_size: int
) -> tuple[list[Row], dict[str, int], list[list[str]]]:
    rows: list[Row] = []
    groups: dict[str, int] = {}
    exact: list[list[str]] = []
    family: Family | None = None
    number = 0
    while len(rows) < samples:
        if family is None or number % FAMILY == 0:
            family = Family(rng)
        grouped = number == 0 or rng.random() < GROUPED
        size = min(int(rng.integers(2, 7)) if grouped else 1, samples - len(rows))
        image = family.image(rng, image_size)
        seen: dict[bytes, list[str]] = {}
        for i in range(size):
            copied = i > 0 and (rng.random() < EXACT or (number == 0 and i == 1))
            data = list(seen)[int(rng.integers(len(seen)))] if copied else encoded(rng, image, i)
            row = _success(rng, family, data)
            exact += [[uid, row["uid"]] for uid in seen.get(data, [])]
            seen.setdefault(data, []).append(row["uid"])
            groups[row["uid"]] = number
            rows.append((row, data))
        number += 1
    return rows, groups, exact


def _success(rng: np.random.Generator, family: Family, data: bytes) -> dict[str, Any]:
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
    with open(folder / f"{name}.tar", "wb") as file, TarWriter(file, encoder=False) as tar:  # as img2dataset
        # Downloads end near the order in which they began.
        for i in np.argsort(np.arange(len(rows)) + rng.uniform(0, 4, len(rows))):
            values, data = rows[i]
            key = f"{10**digits * shard + int(i):0{digits + 5}d}"
            row = {column: key if column == "key" else values[column] for column in SCHEMA.names}
            table.append(row)
            if data is None:
                continue
            tar.mtime = EPOCH + len(table) / 8
            text = json.dumps(row, indent=4).encode(), (row["caption"] or "").encode()
            tar.write({"__key__": key, "jpg": data, "json": text[0], "txt": text[1]})
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
