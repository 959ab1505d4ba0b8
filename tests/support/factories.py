"""Factories of small inputs, shared by the tests."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from made_core.embed import embed, embedded, metadata
from made_core.embed.embedded import Batch, EmbeddedShard
from made_core.embed.encoder import Encoder
from made_core.stages import EmbedOutput
from made_core.types import Shard
from made_core.vectors import Rows

Members = dict[str, bytes]

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def encoded_image(
    seed: int, size: tuple[int, int] = (64, 48), format: str = "JPEG", mode: str = "RGB"
) -> bytes:
    """An encoded image of soft random blobs; equal arguments give equal bytes."""
    blobs = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).convert(mode)
    buffer = BytesIO()
    image.save(buffer, format, **({"quality": 95} if format in ("JPEG", "WEBP") else {}))
    return buffer.getvalue()


def members(seed: int, caption: str | None = "a caption", **fields: Any) -> Members:
    """The jpg, json and txt of one sample as img2dataset writes them; `fields` are added to the json."""
    data = encoded_image(seed)
    found = {"caption": caption, "url": f"http://localhost/{seed}.jpg", "status": "success"}
    return {
        "jpg": data,
        "json": json.dumps(found | {"sha256": hashlib.sha256(data).hexdigest()} | fields).encode(),
        "txt": (caption or "").encode(),
    }


def tar_bytes(files: Iterable[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of (name, content), written by tarfile itself."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return buffer.getvalue()


def stats(successes: int) -> bytes:
    """The content of a `_stats.json`."""
    status = {"success": successes, "HTTP Error 404: Not Found": 1}
    return json.dumps(
        {
            "count": successes + 1,
            "successes": successes,
            "failed_to_download": 1,
            "failed_to_resize": 0,
            "duration": 1.5,
            "start_time": 1700000000.25,
            "end_time": 1700000001.75,
            "status_dict": status,
        },
        indent=4,
    ).encode()


def make_shard(
    folder: Path, name: str, samples: Sequence[tuple[str, Members]], *, finished: bool = True
) -> Path:
    """`<name>.tar`, `.parquet` and, if `finished`, `_stats.json`; the tar's path.

    As with img2dataset, the parquet also has a row of a failed download.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / f"{name}.tar"
    tar.write_bytes(
        tar_bytes((f"{key}.{suffix}", data) for key, parts in samples for suffix, data in parts.items())
    )
    rows = [{"key": key, "status": "success", "error_message": None} for key, _ in samples]
    rows.append(
        {"key": "failed", "status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
    )
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    if finished:
        (folder / f"{name}_stats.json").write_bytes(stats(len(samples)))
    return tar


def shard_of(tar: Path, fingerprint: str = "0" * 32) -> Shard:
    """`tar` as discovery returns it."""
    return Shard(tar.stem, str(tar), fingerprint, tar.stat().st_size, None)


WORDS: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
}  # of a text tower for open_clip's tokenizer


def tiny_open_clip(
    folder: Path, name: str = "tiny", seed: int = 0, text: dict[str, Any] | None = None, **vision: Any
) -> tuple[Path, Path]:
    """(config, checkpoint) of an open_clip model with random weights; `text`, `vision` override its config.

    By default its text tower knows too few tokens for open_clip's tokenizer: captions are not embedded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = TINY | {"vision_cfg": TINY["vision_cfg"] | vision, "text_cfg": TINY["text_cfg"] | (text or {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    path, checkpoint = folder / f"{name}.json", folder / f"{name}-{seed}.pt"
    path.write_text(json.dumps(config), encoding="utf-8")
    torch.save(model.state_dict(), checkpoint)
    return path, checkpoint


def put_embedded(url: str, rows: Rows, table: pa.Table, stray: int = 0) -> EmbedOutput:
    """Stores (n, dim) rows and n rows of metadata as an embedded shard."""
    batches = (Batch(rows, table) for _ in range(min(1, len(rows))))
    return embedded.put(url, EmbeddedShard(len(rows), rows.shape[1], stray, batches))


@dataclass(frozen=True)
class Embedded:
    """All batches of an embedded shard."""

    rows: Rows
    table: pa.Table  # of metadata.SCHEMA
    stray: int


def embed_whole(
    tar: Path,
    encoder: Encoder,
    limits: embed.Limits,
    shard: Shard | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Embedded:
    """A tar's embeddings and metadata, in memory."""
    found = embed.embed(tar, shard or shard_of(tar), encoder, limits, progress)
    batches = list(found.batches)
    rows = np.concatenate([np.zeros((0, found.dim), np.float16), *(b.rows for b in batches)])
    table = pa.concat_tables([metadata.SCHEMA.empty_table(), *(b.table for b in batches)])
    assert (len(rows), len(table)) == (found.samples, found.samples)
    return Embedded(rows, table, found.stray)
