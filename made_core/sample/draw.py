"""Draws images, and edits copies of them.

The images of a family share a palette and exactly the same mean colour, so they differ only in content.
"""

from __future__ import annotations

import colorsys
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance

Array = npt.NDArray[Any]  # of floats

ASPECTS = (1.0, 4 / 3, 3 / 4, 3 / 2, 16 / 9)  # width / height
PLACES = ("a quiet valley", "the old harbour", "an open field", "the studio", "a market square",
          "the north coast", "a private collection", "the workshop")  # fmt: skip


class Family:
    """A scene, a palette and a mean colour that a family of images shares."""

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

    def image(self, rng: np.random.Generator, image_size: int) -> Image.Image:
        """Another image of the family; its longest side has `image_size` pixels."""
        aspect = ASPECTS[int(rng.integers(len(ASPECTS)))]
        width = round(image_size * min(1, aspect))
        height = round(image_size * min(1, 1 / aspect))
        field = _SCENES[self.name](rng, height, width)
        stops = np.linspace(0, 1, len(self.palette))
        pixels = np.stack([np.interp(field, stops, c) for c in self.palette.T], -1)
        pixels = self._objects(rng, pixels)
        pixels += 0.12 * (_noise(rng, height, width, 3, 7) - 0.5)[..., None]
        for _ in range(4):  # clipping shifts the mean again, less each time
            pixels = (pixels + (self.palette.mean(0) - pixels.mean((0, 1)))).clip(0, 1)
        return Image.fromarray((pixels * 255).round().astype(np.uint8))

    def _objects(self, rng: np.random.Generator, pixels: Array) -> Array:
        drawn = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
        draw = ImageDraw.Draw(drawn)
        for _ in range(int(rng.integers(3, 8))):
            x, y = rng.uniform(0, drawn.width), rng.uniform(0, drawn.height)
            reach = rng.uniform(0.05, 0.22) * max(drawn.size)
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
            corners = [(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles]
            colour = self.palette[int(rng.integers(len(self.palette)))] * 255
            fill = (int(colour[0]), int(colour[1]), int(colour[2]))
            if rng.random() < 0.4:
                flat = rng.uniform(0.4, 1)
                draw.ellipse((x - reach, y - reach * flat, x + reach, y + reach * flat), fill)
            else:
                draw.polygon(corners, fill)
        return np.asarray(drawn).astype(np.float32) / 255


def _noise(rng: np.random.Generator, height: int, width: int, first: int, last: int) -> Array:
    """(height, width) octaves of noise with amplitudes 1/f, as in photographs; about 0 to 1."""
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


def encoded(rng: np.random.Generator, image: Image.Image, copy: int) -> bytes:
    """A JPEG of the image: unedited for copy 0, else slightly edited."""
    quality = 92
    if copy:
        quality = int(rng.integers(35, 91))
        if rng.random() < 0.5:
            cut = rng.uniform(0, 0.05, 4) * (*image.size, *image.size)
            right, low = image.width - cut[2], image.height - cut[3]
            image = image.crop((round(cut[0]), round(cut[1]), round(right), round(low)))
        if rng.random() < 0.7:
            scale = rng.uniform(0.5, 0.95)
            size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        if rng.random() < 0.7:
            for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhancer(image).enhance(rng.uniform(0.88, 1.12))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
