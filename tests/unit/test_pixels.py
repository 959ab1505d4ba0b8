"""The model sees what open_clip's own transform shows it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from made_core.embed import pixels
from made_core.errors import BadImage
from made_core.ingest.decode import decode
from tests.support.factories import encoded_image

MEAN_DIFFERENCE = 0.05  # of 255, on average over an image
SIZE = 224
# (width, height): img2dataset's 512, both ways; odd; tiny; panoramas; the model's own size
SIZES = [(512, 384), (384, 512), (512, 512), (333, 211), (7, 5), (1, 1), (1200, 80), (SIZE, SIZE)]
CASES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "P", "RGBA", "LA"), "WEBP": ("RGB", "RGBA")}


def encoded(image: Image.Image, format: str) -> bytes:
    """A file of the image, turned by its EXIF where the format has it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    image.save(buffer, format, quality=90, exif=exif, compress_level=1)  # 1: PNG's fastest
    return buffer.getvalue()


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Soft blobs with noise: edges and texture make the filters of a resize differ."""
    soft = np.asarray(Image.open(BytesIO(encoded_image(seed, size, "PNG")))).astype(int)
    noise = np.random.default_rng(seed).integers(-30, 30, soft.shape)
    return Image.fromarray((soft + noise).clip(0, 255).astype(np.uint8))


def compared(data: bytes, mode: str, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and open_clip's input of the model, in 255ths."""
    transform = image_transform(SIZE, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), **options)
    ours = pixels.resizer(transform, mode)(decode(data, 10**8))
    assert ours.dtype == np.uint8
    normalise = pixels.normaliser(transform, "cpu", torch.float32)
    expected: torch.Tensor = transform(Image.open(BytesIO(data)).convert("RGB"))
    return normalise(torch.from_numpy(ours)[None])[0] * 255, expected * 255


@pytest.mark.parametrize(("format", "mode"), [(f, m) for f, modes in CASES.items() for m in modes])
@pytest.mark.parametrize("size", SIZES)
def test_close_to_open_clips(format: str, mode: str, size: tuple[int, int]) -> None:
    found, expected = compared(encoded(photograph(size).convert(mode), format), "shortest")
    assert found.shape == expected.shape
    difference = (found - expected).abs()
    assert difference.mean() <= MEAN_DIFFERENCE
    assert difference.max() <= 2.01


@pytest.mark.parametrize("size", SIZES)
def test_a_dithered_image(size: tuple[int, int]) -> None:
    found, expected = compared(encoded(photograph(size).convert("1"), "PNG"), "shortest")
    assert torch.equal(found.round(), expected.round())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_other_geometries(size: tuple[int, int], mode: str, interpolation: str) -> None:
    data = encoded(photograph(size), "PNG")
    found, expected = compared(data, mode, resize_mode=mode, interpolation=interpolation)
    assert (found - expected).abs().mean() <= MEAN_DIFFERENCE


def test_an_image_of_the_models_size_is_not_resized() -> None:
    data = encoded(photograph((SIZE, SIZE)), "JPEG")
    found, expected = compared(data, "shortest")
    assert torch.equal(found.round(), expected.round())


def test_normalised_as_by_open_clip() -> None:
    transform = image_transform(SIZE, is_train=False)
    image = photograph((SIZE, SIZE))
    seen = torch.from_numpy(pixels.resizer(transform, "shortest")(np.array(image)))
    ours = pixels.normaliser(transform, "cpu", torch.float32)(seen[None])
    assert (ours[0] - transform(image)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(3, 30_000), (30_000, 3), (1, 5000)])
def test_a_very_long_image_is_not_enlarged_whole(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    seen: list[int] = []
    interpolate = torch.nn.functional.interpolate

    def spy(image: torch.Tensor, size: list[int], **options: Any) -> torch.Tensor:
        seen.append(max(size))
        resized: torch.Tensor = interpolate(image, size=size, **options)
        return resized

    monkeypatch.setattr(torch.nn.functional, "interpolate", spy)
    to_pixels = pixels.resizer(image_transform(32, is_train=False), "shortest")
    found = to_pixels(np.array(Image.new("RGB", size, "brown")))
    assert found.shape == (32, 32, 3)
    assert max(seen) <= 32 * (pixels.LONGEST + 1)
    assert (found == to_pixels(np.array(Image.new("RGB", (32, 32), "brown")))).all()


def test_a_very_long_image_that_is_seen_whole() -> None:
    to_pixels = pixels.resizer(image_transform(32, is_train=False, resize_mode="longest"), "longest")
    with pytest.raises(BadImage, match="3 x 3000 pixels and cannot be resized"):
        to_pixels(np.zeros((3000, 3, 3), np.uint8))


def test_the_middle_is_what_the_crop_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    to_pixels = pixels.resizer(image_transform(32, is_train=False), "shortest")
    long = np.array(photograph((16 * 33, 16)))
    cut = to_pixels(long).astype(int)
    monkeypatch.setattr(pixels, "LONGEST", 10**6)
    assert np.abs(cut - to_pixels(long)).max() <= 6
