"""Edits of an image: what happens to a photograph on its way through the web."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from benchmarks.quality.images import Labelled, jpeg

Edit = Callable[[Image.Image, random.Random], Image.Image]


def _resize(image: Image.Image, rng: random.Random) -> Image.Image:
    share = rng.uniform(0.3, 0.7)
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.BICUBIC)


def _stretch(image: Image.Image, rng: random.Random) -> Image.Image:
    share = rng.choice((0.8, 1.25))
    return image.resize((round(image.width * share), image.height), Image.Resampling.BICUBIC)


def _recompress(image: Image.Image, rng: random.Random) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(image, rng.randint(15, 50)))).convert("RGB")


def _brightness(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(
        rng.choice((rng.uniform(0.6, 0.85), rng.uniform(1.15, 1.4)))
    )


def _contrast(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(rng.choice((rng.uniform(0.6, 0.85), rng.uniform(1.15, 1.5))))


def _blur(image: Image.Image, rng: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) * rng.uniform(0.003, 0.01)))


def _crop(low: float, high: float) -> Edit:
    """Takes a share of the width and of the height off, split at random between the two sides."""

    def edit(image: Image.Image, rng: random.Random) -> Image.Image:
        width, height = (max(1, round(side * (1 - rng.uniform(low, high)))) for side in image.size)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        return image.crop((left, top, left + width, top + height))

    return edit


def _rotate(low: float, high: float) -> Edit:
    """Turns; half of the images keep their size with black or white corners, half are cut to what is left."""

    def edit(image: Image.Image, rng: random.Random) -> Image.Image:
        angle = rng.choice((-1, 1)) * rng.uniform(low, high)
        fill = rng.choice(((0, 0, 0), (255, 255, 255)))
        turned = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=fill)
        if rng.random() < 0.5:
            return turned
        sin, cos = math.sin(math.radians(abs(angle))), math.cos(math.radians(angle))
        width, height = image.size
        share = min(width / (width * cos + height * sin), height / (width * sin + height * cos))
        x, y = (round(side * (1 - share) / 2) for side in image.size)
        return turned.crop((x, y, width - x, height - y))

    return edit


def _border(image: Image.Image, rng: random.Random) -> Image.Image:
    colour = tuple(rng.choice((0, 255, rng.randint(0, 255))) for _ in range(3))
    return ImageOps.expand(image, round(min(image.size) * rng.uniform(0.03, 0.08)), colour)


def _caption(image: Image.Image, rng: random.Random) -> Image.Image:
    high = max(10, round(image.height * rng.uniform(0.08, 0.15)))
    paper = rng.choice((0, 255))
    page = Image.new("RGB", (image.width, image.height + high), (paper,) * 3)
    page.paste(image, (0, 0))
    ink = (255 - paper,) * 3
    text = f"Photo {rng.randint(0, 9999)}: all rights reserved"
    ImageDraw.Draw(page).text((4, image.height + high // 4), text, ink, font_size=max(6, high // 2))
    return page


def _mirror(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.mirror(image)


EDITS: dict[str, Edit] = {
    "resized": _resize,
    "stretched": _stretch,
    "recompressed": _recompress,
    "brightness": _brightness,
    "contrast": _contrast,
    "blurred": _blur,
    "cropped 5-10 %": _crop(0.05, 0.10),
    "cropped 10-20 %": _crop(0.10, 0.20),
    "turned 2-5 degrees": _rotate(2, 5),
    "turned 6-10 degrees": _rotate(6, 10),
    "mirrored": _mirror,
    "mirrored, cropped": lambda image, rng: _crop(0.05, 0.10)(_mirror(image, rng), rng),
    "border": _border,
    "caption bar": _caption,
}


def edited(original: Labelled) -> Iterator[Labelled]:
    """The image itself, then one of each edit; the same ones every time."""
    yield original
    for name, edit in EDITS.items():
        rng = random.Random(f"{original.group}/{name}")
        yield Labelled(edit(original.image, rng), original.group, name)
