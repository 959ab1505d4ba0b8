"""Encoders and perceptual hashes as methods: an image -> a code; codes -> how alike they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.quality.measure import Scores
from made_core.embed import perceptual

BATCH = 32  # images: the batch of built-in encoders on a CPU


@dataclass(frozen=True)
class Method:
    """A way to find duplicates."""

    name: str
    encode: Callable[[Sequence[Image.Image]], npt.NDArray[Any]]  # -> (n, ...) codes
    scores: Callable[[npt.NDArray[Any]], Scores]


def cosines(rows: npt.NDArray[np.float32]) -> Scores:
    """(n, n) cosines of (n, dim) unit rows, after they were stored as float16."""
    stored = rows.astype(np.float16).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    result: Scores = stored @ stored.T
    return result


def bits_alike(codes: npt.NDArray[np.float32]) -> Scores:
    """(n, n) bits that agree, minus those that do not, of (n, bits) codes of -1 and 1."""
    result: Scores = codes @ codes.T
    return result


def best_orientation(codes: npt.NDArray[np.float32]) -> Scores:
    """(n, n) of (n, 8, bits): the best of the second image's eight orientations, and of the first's."""
    scores = codes[:, 0] @ codes[:, 0].T
    for turn in range(1, codes.shape[1]):
        scores = np.maximum(scores, codes[:, 0] @ codes[:, turn].T)
    result: Scores = np.maximum(scores, scores.T)
    return result


def descriptor(name: str, describe: Callable[[torch.Tensor], torch.Tensor]) -> Method:
    """A built-in encoder."""

    def encode(images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = torch.stack([perceptual.to_pixels(i) for i in images[start : start + BATCH]])
                rows.append(describe(batch).numpy())
        return np.concatenate(rows)

    return Method(name, encode, cosines)


def image_hash(name: str, kind: str) -> Method:
    """PHash or DHash of imagededup."""
    from imagededup import methods  # type: ignore[import-not-found]

    hasher = getattr(methods, kind)(verbose=False)

    def encode(images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        texts = [hasher.encode_image(image_array=np.asarray(image)) for image in images]
        return np.stack([_signs(np.frombuffer(bytes.fromhex(text), np.uint8)) for text in texts])

    return Method(name, encode, bits_alike)


def pdq(name: str, orientations: bool) -> Method:
    """Meta's PDQ, of the image as it is or in its eight orientations."""
    import pdqhash  # type: ignore[import-not-found]

    def one(image: Image.Image) -> npt.NDArray[np.float32]:
        pixels = np.ascontiguousarray(np.asarray(image))
        if orientations:
            return np.stack(pdqhash.compute_dihedral(pixels)[0]).astype(np.float32) * 2 - 1
        signs: npt.NDArray[np.float32] = pdqhash.compute(pixels)[0].astype(np.float32) * 2 - 1
        return signs

    def encode(images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        return np.stack([one(image) for image in images])

    return Method(name, encode, best_orientation if orientations else bits_alike)


def _signs(code: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.unpackbits(code).astype(np.float32) * 2 - 1


def every_descriptor() -> list[Method]:
    """The built-in encoders."""
    return [descriptor("perceptual", perceptual.describe)]


def every() -> list[Method]:
    """All methods, ours first."""
    warnings.filterwarnings("ignore")  # of packages that are not ours
    return [
        *every_descriptor(),
        image_hash("PHash", "PHash"),
        image_hash("DHash", "DHash"),
        pdq("PDQ", orientations=False),
        pdq("PDQ, 8 orientations", orientations=True),
    ]
