"""The sizes of the images in shards, and whether they suffice for a model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from made_core.ingest import tar
from made_core.ingest.decode import FORMATS
from made_core.io import files

SHARDS = 8  # that are read: finding the images of a tar takes reading all of it
COMMON = 0.9  # share of the images that a size must have in common to tell the resize mode


@dataclass(frozen=True)
class StoredSizes:
    """Widths and heights of images, in pixels."""

    sizes: tuple[tuple[int, int], ...]

    @property
    def shorter(self) -> list[int]:
        """The shorter sides, ascending."""
        return sorted(min(size) for size in self.sizes)

    def enlarged(self, image_size: int) -> float:
        """Share of the images whose shorter side is below a model's: it would see them enlarged."""
        return sum(side < image_size for side in self.shorter) / max(1, len(self.sizes))

    @property
    def resize_mode(self) -> str:
        """How img2dataset resized them, as far as sizes show it."""
        if not self.sizes:
            return "unknown: no readable image"
        square = Counter(size for size in self.sizes if size[0] == size[1]).most_common(1)
        if square and square[0][1] >= COMMON * len(self.sizes):
            return f"center_crop or border, image_size={square[0][0][0]}"
        side, count = Counter(min(size) for size in self.sizes).most_common(1)[0]
        if count >= COMMON * len(self.sizes):
            return f"keep_ratio, image_size={side}"
        side = max(max(size) for size in self.sizes)
        count = sum(max(size) == side for size in self.sizes)
        if count >= 2:
            return (
                f"keep_ratio_largest, image_size={side}: {count / len(self.sizes):.0%} have that longer side"
            )
        return "no, or unknown: the sizes have nothing in common"


def drawn(urls: Sequence[str]) -> Sequence[str]:
    """At most `SHARDS` of the shards, spread over all of them."""
    return [urls[n * len(urls) // SHARDS] for n in range(SHARDS)] if len(urls) > SHARDS else urls


def read(urls: Sequence[str], most: int) -> StoredSizes:
    """The sizes of `most` images at most, spread over the shards; only headers are decoded.

    Args:
        urls: paths or URLs of shards; each of them is read as a whole.

    Raises:
        CorruptShard: a tar is not complete.
        FileNotFoundError: a tar is missing. StorageFailed: the storage does not answer.
    """
    sizes: list[tuple[int, int]] = []
    for number, url in enumerate(urls):
        wanted = -(-(most - len(sizes)) // (len(urls) - number))
        with files.local(url) as path:
            sizes += _of_tar(path, wanted)
    return StoredSizes(tuple(sizes))


def _of_tar(path: Path, wanted: int) -> list[tuple[int, int]]:
    sizes: list[tuple[int, int]] = []
    entries = tar.index(path).entries
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for entry in entries[:: max(1, len(entries) // max(1, wanted))][:wanted]:
            data = tar.load(descriptor, entry, str(path)).image
            try:
                with Image.open(BytesIO(data or b""), formats=FORMATS) as image:
                    sizes.append(image.size)
            except Exception:  # unreadable, for any of PIL's reasons
                continue
    finally:
        os.close(descriptor)
    return sizes
