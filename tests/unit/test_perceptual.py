"""The descriptors: what stays close, what does not, and that a row is its picture's alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from made_core import perceptual, planted, samples


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after a round through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """One picture of each planted group."""
    folder = tmp_path_factory.mktemp("pictures")
    truth = planted.write(folder, samples=40, shards=1, seed=3)
    found: dict[int, Image.Image] = {}
    for uid, data in read(folder).items():
        found[truth["groups"][uid]] = Image.open(io.BytesIO(data)).convert("RGB")
    return list(found.values())


def read(folder: Path) -> dict[str, bytes]:
    """uid -> picture bytes of a planted sample, in shard order."""
    found = {}
    for tar in sorted((folder / "shards").glob("*.tar")):
        for uid, data in planted_rows(tar):
            found[uid] = data
    return found


def planted_rows(tar: Path) -> list[tuple[str, bytes]]:
    """(uid, picture bytes) of each sample of a tar."""
    import json
    import tarfile

    with tarfile.open(tar) as file:
        content = {m.name: file.extractfile(m).read() for m in file}  # type: ignore[union-attr]
    return [
        (json.loads(data)["uid"], content[name.replace("json", "jpg")])
        for name, data in content.items()
        if name.endswith("json")
    ]
