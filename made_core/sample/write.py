"""Writes a sample data set of drawn images with known duplicates, as img2dataset would."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from webdataset.writer import TarWriter

from made_core.errors import OutputError
from made_core.sample.draw import PLACES, Family, encoded

FAMILY = 8  # images per family
GROUPED = 0.22  # share of images with copies; these groups have about half of the samples
EXACT = 0.2  # share of copies with equal bytes
EPOCH = 1_700_000_000.0  # seconds: start of all recorded times
WORDS = ("morning light", "late autumn", "long exposure", "hand finished", "wide angle",
         "soft contrast", "early spring", "after the rain")  # fmt: skip
STRINGS = ("uid", "caption", "url", "key", "status", "error_message")
SIZES = ("width", "height", "original_width", "original_height")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in STRINGS]
    + [(name, pa.int32()) for name in SIZES]
    + [("exif", pa.string()), ("sha256", pa.string())]
)


class Truth(TypedDict):
    """The content of truth.json."""

    groups: dict[str, int]  # uid -> group; an image without copies is a group of one
    exact: list[list[str]]  # pairs of uids with equal image bytes
    seed: int
    samples: int


@dataclass(frozen=True)
class Row:
    """A row of SCHEMA, in its order."""

    uid: str
    caption: str | None
    url: str
    key: str | None  # None: not assigned yet
    status: str
    error_message: str | None
    width: int | None
    height: int | None
    original_width: int | None
    original_height: int | None
    exif: str | None
    sha256: str | None


@dataclass(frozen=True)
class Download:
    """A sample, or a failed download."""

    row: Row
    image: bytes | None  # None: failed


def write_sample(
    folder: Path, *, samples: int = 400, shards: int = 4, seed: int = 0, image_size: int = 256
) -> Truth:
    """Writes `folder`/shards as img2dataset 1.47 would, and `folder`/truth.json; returns the truth.

    The longest side of an image has at most `image_size` pixels. Each shard's parquet also has failed
    downloads. Equal arguments write equal bytes (with the same versions of Pillow and pyarrow).

    Raises:
        OutputError: `folder` already has a sample data set.
        ValueError: an argument is out of bounds.
    """
    if samples < 2 or not 1 <= shards <= samples or seed < 0 or not 32 <= image_size <= 4096:
        raise ValueError(
            f"samples={samples}, shards={shards}, seed={seed}, image_size={image_size}; allowed: "
            "samples >= 2, shards 1 to samples, seed >= 0, image_size 32 to 4096"
        )
    target = folder / "shards"
    if (folder / "truth.json").exists() or (target.exists() and any(target.iterdir())):
        raise OutputError(f"{folder} already contains a sample data set; name another folder")
    target.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(seed)
    rows, groups, exact = _samples(rng, samples, image_size)
    rows += [_failure(rng, i) for i in range(max(shards, samples // 40))]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    per_shard = math.ceil(len(rows) / shards)
    for shard, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        _write_shard(target, shard, [shuffled[i] for i in part], per_shard, rng)
    truth: Truth = {"groups": groups, "exact": exact, "seed": seed, "samples": samples}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return truth


def _samples(
    rng: np.random.Generator, samples: int, image_size: int
) -> tuple[list[Download], dict[str, int], list[list[str]]]:
    rows: list[Download] = []
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
            exact += [[uid, row.uid] for uid in seen.get(data, [])]
            seen.setdefault(data, []).append(row.uid)
            groups[row.uid] = number
            rows.append(Download(row, data))
        number += 1
    return rows, groups, exact


def _success(rng: np.random.Generator, family: Family, data: bytes) -> Row:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    uid = rng.bytes(16).hex()
    caption = f"{family.name} at {family.place}, {WORDS[int(rng.integers(len(WORDS)))]}"
    return Row(
        uid=uid,
        caption=None if rng.random() < 0.02 else caption,  # some alt texts are missing
        url=f"https://pictures.example/{uid[:2]}/{uid}.jpg",
        key=None,
        status="success",
        error_message=None,
        width=width,
        height=height,
        original_width=2 * width,
        original_height=2 * height,
        exif="{}",
        # img2dataset hashes the downloaded bytes, not the stored ones.
        sha256=hashlib.sha256(b"as downloaded" + data).hexdigest(),
    )


def _failure(rng: np.random.Generator, number: int) -> Download:
    uid = rng.bytes(16).hex()
    undecodable = number % 5 == 4
    row = Row(
        uid=uid,
        caption=f"no longer at {PLACES[number % len(PLACES)]}",
        url=f"https://pictures.example/gone/{uid}.jpg",
        key=None,
        status="failed_to_resize" if undecodable else "failed_to_download",
        error_message="Image decoding error" if undecodable else "HTTP Error 404: Not Found",
        width=None,
        height=None,
        original_width=None,
        original_height=None,
        exif=None,
        sha256=None,
    )
    return Download(row, None)


def _write_shard(
    folder: Path, shard: int, rows: Sequence[Download], per_shard: int, rng: np.random.Generator
) -> None:
    name = f"{shard:05d}"
    digits = math.ceil(math.log10(per_shard))
    table: list[Row] = []
    with open(folder / f"{name}.tar", "wb") as file, TarWriter(file, encoder=False) as tar:  # as img2dataset
        # Downloads finish in about the order in which they were started.
        for i in np.argsort(np.arange(len(rows)) + rng.uniform(0, 4, len(rows))):
            key = f"{10**digits * shard + int(i):0{digits + 5}d}"
            row, image = replace(rows[i].row, key=key), rows[i].image
            table.append(row)
            if image is None:
                continue
            tar.mtime = EPOCH + len(table) / 8
            text, caption = json.dumps(asdict(row), indent=4).encode(), (row.caption or "").encode()
            tar.write({"__key__": key, "jpg": image, "json": text, "txt": caption})
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in table], SCHEMA), folder / f"{name}.parquet")
    states = Counter(row.status for row in table)
    stats = {
        "count": len(table),
        "successes": states["success"],
        "failed_to_download": states["failed_to_download"],
        "failed_to_resize": states["failed_to_resize"],
        "duration": len(table) / 8,
        "start_time": EPOCH,
        "end_time": EPOCH + len(table) / 8,
        "status_dict": dict(Counter(row.error_message or "success" for row in table)),
    }
    # Written last: it marks the shard as finished.
    (folder / f"{name}_stats.json").write_text(json.dumps(stats, indent=4), encoding="utf-8")
