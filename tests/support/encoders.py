"""The tiny open_clip model's part of a recipe, and images for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_core import recipe
from made_core.embed import encoder
from made_core.ingest.decode import Pixels, decode
from tests.support.factories import encoded_image


def part(tiny: tuple[Path, Path], **changes: Any) -> recipe.Encoder:
    """The encoder section of the recipe for the tiny model on the CPU."""
    fields = {"model": "tiny", "config": str(tiny[0]), "pretrained": str(tiny[1]), "device": "cpu"}
    return encoder.resolve(recipe.Encoder(**{"batch_size": 4, **fields, **changes}))


def images(n: int = 5) -> list[Pixels]:
    """Images of several shapes."""
    sizes = [(64, 48), (48, 64), (33, 32), (20, 100), (7, 5), (300, 200)]
    return [decode(encoded_image(i, sizes[i % len(sizes)]), 10**6) for i in range(n)]
