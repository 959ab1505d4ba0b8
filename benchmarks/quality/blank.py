"""Images with little to see: what the default eps takes for duplicates among them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.quality import methods
from made_core.embed import perceptual

NUMBER = 60  # images of each kind


@dataclass(frozen=True)
class Row:
    """One kind of image."""

    what: str
    images: int
    pairs: int  # of different images within the default eps
    highest: float  # cosine of two different images
    allowed: int  # pairs


def _uniform(rng: random.Random) -> Image.Image:
    return Image.new("RGB", (256, 256), tuple(rng.choice((0, 128, 255)) for _ in range(3)))


def _stroke(rng: random.Random) -> Image.Image:
    return _drawn(rng, 1, 256)


def _sketch(rng: random.Random) -> Image.Image:
    return _drawn(rng, 8, 256)


def _tiny(rng: random.Random) -> Image.Image:
    return _drawn(rng, 4, 16)


def _drawn(rng: random.Random, strokes: int, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for _ in range(strokes):
        x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)
        points = [(x * side, y * side)]
        for _ in range(4):
            x, y = (min(0.95, max(0.05, at + rng.uniform(-0.2, 0.2))) for at in (x, y))
            points.append((x * side, y * side))
        draw.line(points, (0, 0, 0), max(1, side // 80))
    return image


# How each kind is drawn, and how many pairs may be near: colours of one hue are, and at times single strokes.
KINDS: dict[str, tuple[Callable[[random.Random], Image.Image], int]] = {
    "uniform": (_uniform, 12),
    "one stroke on white": (_stroke, 2),
    "eight strokes on white": (_sketch, 0),
    "16 x 16 pixels, four strokes": (_tiny, 0),
}


def look() -> list[Row]:
    """A row for each kind."""
    ours = methods.every_descriptor()[0]
    rows = []
    for what, (draw, allowed) in KINDS.items():
        rng = random.Random(what)
        drawn = list({i.tobytes(): i for i in (draw(rng) for _ in range(NUMBER))}.values())  # each once
        scores = ours.scores(ours.encode(drawn))
        i, j = np.triu_indices(len(drawn), 1)
        near = int((scores[i, j] > 1 - perceptual.DEFAULT_EPS).sum())
        rows.append(Row(what, len(drawn), near, round(float(scores[i, j].max()), 4), allowed))
    return rows
