"""How far a growing corpus has moved from the centroids that it was clustered by."""

from __future__ import annotations

from dataclasses import dataclass

FARTHER = 1.2  # mean distance to the centroids, against that when they were trained: they fit no more
GROWN = 4.0  # images, against then: sqrt(images) has doubled, and comparing costs n^2 / k


@dataclass(frozen=True)
class Drift:
    """How far a growing corpus has moved from its centroids."""

    distance: float  # new images' mean distance to their centroids / the trained-on ones'
    growth: float  # images / images when the centroids were trained
    train_anew: bool  # farther than FARTHER, or grown beyond GROWN


def moved(trained: float, new: float, images_then: int, images: int) -> Drift:
    """The drift, from mean distances 1 - cosine and numbers of images."""
    # Where all images were alike (distance 0), any other is infinitely far: said as a large number.
    distance = min(1e6, new / trained) if trained > 0 else (1.0 if new <= 0 else 1e6)
    growth = images / images_then
    return Drift(round(distance, 4), round(growth, 4), distance > FARTHER or growth > GROWN)
