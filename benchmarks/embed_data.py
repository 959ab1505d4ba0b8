"""The images, captions, shards and models that `benchmarks.embed` measures with."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

# A model that costs nothing beside decoding and resizing.
THIN: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 16, "head_width": 8, "patch_size": 56},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
WORDS = ("a", "the", "photo", "of", "red", "small", "old", "house", "with", "view", "art", "women", "2019")
DISTINCT = 64  # images of a synthetic shard; the others repeat them


def photograph(seed: int) -> bytes:
    """A JPEG of 512 x 384, about 75 kB as img2dataset's are at quality 95."""
    generator = np.random.default_rng(seed)
    soft = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        (512, 384), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(soft).astype(int) + generator.normal(0, 3.5, (384, 512, 1)).astype(int)
    out = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def caption(seed: int) -> str:
    """2 to 40 words, half of the captions at most 10, as in LAION."""
    generator = np.random.default_rng(seed)
    words = int(np.clip(generator.lognormal(2.3, 0.6), 2, 40))
    return " ".join(generator.choice(WORDS, words).tolist())


def shard_of(path: Path, samples: int, images: list[bytes]) -> Path:
    """A shard as img2dataset writes it: each member has a PAX record of its time, which is no integer."""
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            fields = {
                "caption": caption(number),
                "url": f"http://localhost/{number}.jpg",
                "key": f"{number:09d}",
            }
            members = {
                "jpg": images[number % len(images)],
                "json": json.dumps(fields).encode(),
                "txt": caption(number).encode(),
            }
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size, info.mtime = len(data), 1_700_000_000.25
                tar.addfile(info, BytesIO(data))
    return path


def images_of(real: Path | None) -> list[bytes]:
    """The JPEGs of the first shard in `real`/shards; else synthetic ones."""
    if real is None:
        return [photograph(seed) for seed in range(DISTINCT)]
    with tarfile.open(min((real / "shards").glob("*.tar"))) as tar:
        members = [m for m in tar if m.name.endswith(".jpg")]
        return [found.read() for m in members if (found := tar.extractfile(m))]


def model_files(folder: Path, name: str, config: dict[str, Any]) -> tuple[Path, Path]:
    """A config and a checkpoint of random weights."""
    path, weights = folder / f"{name}.json", folder / f"{name}.pt"
    path.write_text(json.dumps(config))
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**config).state_dict(), weights)
    return path, weights
