"""The descriptors: which edits stay close, which do not, and that a row depends only on its image."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from made_core.embed import means, perceptual
from made_core.sample.write import write_sample

FLIP = Image.Transpose.FLIP_LEFT_RIGHT
Edit = Callable[[Image.Image], Image.Image]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """32 drawn images, some of them near-duplicates."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, samples=32, shards=1, seed=3, image_size=160)
    found = []
    with tarfile.open(folder / "shards" / "00000.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if member.name.endswith(".jpg") and file is not None:
                found.append(Image.open(io.BytesIO(file.read())).convert("RGB"))
    return found


@pytest.fixture(scope="module")
def pixels(images: list[Image.Image]) -> Tensor:
    return torch.stack([perceptual.to_pixels(image) for image in images])


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cut(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def flat(*colour: int) -> Tensor:
    return perceptual.to_pixels(Image.new("RGB", (90, 60), colour))


def test_pixels_are_uint8_squares_of_any_image() -> None:
    for size in [(1, 1), (3, 400), (400, 3), (2000, 1500), (perceptual.SIZE, perceptual.SIZE)]:
        result = perceptual.to_pixels(Image.new("RGB", size, (10, 200, 30)))
        assert result.dtype == torch.uint8
        assert result.shape == (3, perceptual.SIZE, perceptual.SIZE)
        assert (result == torch.tensor([10, 200, 30], dtype=torch.uint8)[:, None, None]).all()


def test_pixels_are_antialiased() -> None:
    # One-pixel stripes: every pixel of the reduced image must see both colours.
    stripes = np.zeros((960, 960, 3), dtype=np.uint8)
    stripes[::2] = 255
    result = perceptual.to_pixels(Image.fromarray(stripes)).float()
    assert (result - 127.5).abs().max() <= 2


def test_rows_are_float32_unit_rows(pixels: Tensor) -> None:
    rows = perceptual.describe(pixels)
    assert rows.dtype == torch.float32
    assert rows.shape == (len(pixels), 546)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-6)
    colours = perceptual.mean_colour(pixels)
    assert colours.shape == (len(pixels), 4)
    assert torch.allclose(colours.norm(dim=1), torch.ones(len(rows)), atol=1e-6)


@pytest.mark.parametrize("describe", [perceptual.describe, perceptual.mean_colour])
def test_a_row_has_the_same_bits_in_any_batch(describe: Callable[[Tensor], Tensor], pixels: Tensor) -> None:
    rows = describe(pixels)
    assert torch.equal(torch.cat([describe(one[None]) for one in pixels[:9]]), rows[:9])
    assert torch.equal(torch.cat([describe(part) for part in (pixels[:7], pixels[7:])]), rows)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    assert torch.equal(describe(pixels[order]), rows[order])
    padded = torch.cat([pixels[5:6], torch.zeros_like(pixels)])
    assert torch.equal(describe(padded)[0], rows[5])


def test_blank_images_have_finite_rows_that_distinguish_colours() -> None:
    names = {
        "black": flat(0, 0, 0),
        "white": flat(255, 255, 255),
        "grey": flat(127, 127, 127),
        "red": flat(220, 20, 20),
        "blue": flat(20, 20, 220),
    }
    for describe in (perceptual.describe, perceptual.mean_colour):
        rows = describe(torch.stack(list(names.values())))
        assert torch.isfinite(rows).all()
        assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-6)
        assert torch.equal(rows, describe(torch.stack(list(names.values()))))
        cosines = rows @ rows.T - 2 * torch.eye(len(rows))
        assert cosines.max() < 1 - perceptual.DEFAULT_EPS


def test_compression_noise_on_a_blank_image_is_ignored() -> None:
    rng = np.random.default_rng(0)
    noisy = (127 + rng.integers(-3, 4, (120, 120, 3))).astype(np.uint8)
    rows = perceptual.describe(
        torch.stack([flat(127, 127, 127), perceptual.to_pixels(Image.fromarray(noisy))])
    )
    assert rows[0] @ rows[1] > 1 - perceptual.DEFAULT_EPS


EDITS: dict[str, tuple[Edit, float]] = {  # the share that must stay within DEFAULT_EPS
    "jpeg 30": (lambda i: jpeg(i, 30), 1.0),
    "half size": (lambda i: i.resize((i.width // 2, i.height // 2)), 1.0),
    "another shape": (lambda i: i.resize((130, 100)), 1.0),
    "brighter": (lambda i: ImageEnhance.Brightness(i).enhance(1.12), 1.0),
    "darker": (lambda i: ImageEnhance.Brightness(i).enhance(0.85), 1.0),
    "more contrast": (lambda i: ImageEnhance.Contrast(i).enhance(1.15), 1.0),
    "less colour": (lambda i: ImageEnhance.Color(i).enhance(0.8), 1.0),
    "3 % off each side": (lambda i: cut(i, 0.03), 0.9),
    "5 % off two sides": (lambda i: i.crop((i.width // 20, 0, i.width, i.height * 19 // 20)), 0.8),
    "5 % off each side": (lambda i: cut(i, 0.05), 0.45),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_stay_within_the_default_eps(name: str, images: list[Image.Image], pixels: Tensor) -> None:
    edit, share = EDITS[name]
    edited = torch.stack([perceptual.to_pixels(edit(image)) for image in images])
    cosines = (perceptual.describe(pixels) * perceptual.describe(edited)).sum(1)
    assert (cosines > 1 - perceptual.DEFAULT_EPS).float().mean() >= share


def test_unrelated_images_are_near_orthogonal(pixels: Tensor) -> None:
    rows = perceptual.describe(pixels)
    cosines = (rows @ rows.T)[torch.triu(torch.ones(len(rows), len(rows), dtype=torch.bool), 1)]
    assert -0.2 < cosines.median() < 0.2


def test_a_mirror_image_is_the_same_image(images: list[Image.Image], pixels: Tensor) -> None:
    mirrored = torch.stack([perceptual.to_pixels(image.transpose(FLIP)) for image in images])
    assert ((perceptual.describe(pixels) * perceptual.describe(mirrored)).sum(1) > 0.98).all()


def test_rotations_are_other_images(pixels: Tensor) -> None:
    rows = perceptual.describe(pixels)
    for turned in (pixels.flip(2), pixels.rot90(1, (2, 3))):
        cosines = (rows * perceptual.describe(turned)).sum(1)
        assert (cosines > 1 - perceptual.DEFAULT_EPS).float().mean() < 0.1


def test_mirror_images_are_others_if_asked_for(pixels: Tensor) -> None:
    rows = perceptual.describe_directed(pixels)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-6)
    cosines = (rows * perceptual.describe_directed(pixels.flip(3))).sum(1)
    assert (cosines > 1 - perceptual.DEFAULT_EPS).float().mean() < 0.1


def test_plain_margins_say_nothing(images: list[Image.Image]) -> None:
    """A border of any colour, and a bar with a few words."""
    for colour in ("white", "black", "red"):
        framed = [ImageOps.expand(image, 9, colour) for image in images]
        assert near(images, framed) >= 0.9
    barred = []
    for image in images:
        page = Image.new("RGB", (image.width, image.height + 18), "white")
        page.paste(image)
        ImageDraw.Draw(page).text((4, image.height + 3), "a photo", "black", font_size=10)
        barred.append(page)
    assert near(images, barred) >= 0.9


def test_drawings_on_white_are_told_apart() -> None:
    drawn = []
    for at in range(0, 12, 2):
        page = Image.new("RGB", (120, 120), "white")
        ImageDraw.Draw(page).line((10 + 8 * at, 10, 100 - 5 * at, 30 + 7 * at), "black", 2)
        drawn.append(page)
    rows = perceptual.describe(torch.stack([perceptual.to_pixels(page) for page in drawn]))
    cosines = rows @ rows.T - 2 * torch.eye(len(rows))
    assert (cosines < 1 - perceptual.DEFAULT_EPS).all()


def near(images: list[Image.Image], others: list[Image.Image]) -> float:
    """The share of images[i], others[i] within the default eps."""
    rows = [
        perceptual.describe(torch.stack([perceptual.to_pixels(i) for i in some])) for some in (images, others)
    ]
    return float(((rows[0] * rows[1]).sum(1) > 1 - perceptual.DEFAULT_EPS).float().mean())


def test_means_are_those_of_avg_pool2d() -> None:
    """Rows of one version do not change: not by a bit where torch adds in the same order."""
    planes = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 24, 24)).astype(np.float32))
    along = F.avg_pool2d(planes, (1, 7), 1, (0, 3), count_include_pad=False)
    across = F.avg_pool2d(planes, (9, 1), 1, (4, 0), count_include_pad=False)
    for found, expected in (
        (means.around(planes, 3, 3), along),
        (means.around(planes, 2, 4), across),
        (means.inner(planes), F.avg_pool2d(planes, 3, 1)),
        (means.squares(planes, 2), F.avg_pool2d(planes, 2)),
        (means.squares(planes, 1), planes),
        (means.cells(planes, 3, 4), F.avg_pool2d(planes, (1, 4))),
        (means.cells(planes, 2, 4), F.avg_pool2d(planes, (4, 1))),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
