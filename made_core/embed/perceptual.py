"""Image descriptors without weights. They capture layout, not meaning: for near-duplicates only."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from PIL import Image
from torch import Tensor

VERSION = 1  # of the rows; raise it whenever the same pixels would give another row
SIZE = 48  # pixels: side of the square that images are resized to
CELLS = 6  # soft cells per side
HARMONICS = 3  # of the gradient's angle: 1, 2 and 4
DIM = CELLS * CELLS * (3 + 2 * HARMONICS) + 4
# Measured on photographs. 150 edited ones: after resizing, JPEG 30 and light shifts of colour the
# cosine is at least .95; after cropping, it is above .9 for 98 % with 5 % off two sides or 3 % off all
# four, and for 87 % with 5 % off all four. 1145 unedited ones: above .9 are 3 % of the pairs of views of
# one object (median .58), and 2 in 650,000 other pairs (median .06).
DEFAULT_EPS = 0.1

# Weight of each block in a row. Halving or doubling the first two changes little.
LUMA, CHROMA, GRADIENT, MEAN = 0.5, 0.4, 1.0, 0.2
# Contrast (1 = black to white) below which a block fades, so that coding noise is not amplified.
FAINT = 0.05


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image resized to the square, ignoring its aspect: (3, SIZE, SIZE) uint8, sRGB as stored.

    Bicubic with antialiasing, after a box reduction to at least 3 x SIZE per side, so that a large
    image costs one pass.
    """
    small = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def describe(pixels: Tensor) -> Tensor:
    """(n, 3, SIZE, SIZE) uint8 -> (n, DIM) float32 unit rows.

    Four blocks: the layout of luma minus its mean, of two opponent colours, of gradient directions,
    and the mean colour with a constant, the only non-zero block of a uniform image. Directions are
    counted as in HOG (Dalal and Triggs 2005), but by their Fourier harmonics (Liu et al. 2014), which
    have zero mean: unrelated images have a cosine near 0, not .7.

    A row depends only on its own image, bit for bit, whatever the batch: no operation mixes rows, and
    there is no matrix product, whose summation order depends on the shape.
    """
    opponent = _opponent(pixels)
    layout = _pool(opponent)
    mean = layout.mean((2, 3))
    luma = layout[:, 0] - mean[:, 0, None, None]
    blocks = [
        LUMA * _level(luma.flatten(1), FAINT),
        CHROMA * _level(layout[:, 1:].flatten(1), FAINT),
        GRADIENT * _level(_gradients(opponent[:, :1]).flatten(1), 2 * FAINT),
        MEAN * _colour(mean),
    ]
    return _unit(torch.cat(blocks, 1))


def mean_colour(pixels: Tensor) -> Tensor:
    """(n, 3, h, w) uint8 -> (n, 4) float32 unit rows of the mean colour only: a baseline."""
    return _unit(_colour(_opponent(pixels).mean((2, 3))))


def _opponent(pixels: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in 0..1, red-green and yellow-blue in -.5...5; (n, 3, h, w) float32."""
    red, green, blue = (pixels.float() / 255).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, (red - green) / 2, (red + green) / 4 - blue / 2], 1)


def _colour(mean: Tensor) -> Tensor:
    # Luma relative to mid-grey; with the constant, the row of a mid-grey image is not zero.
    constant = torch.full_like(mean[:, :1], 0.2)
    return torch.cat([mean[:, :1] - 0.5, mean[:, 1:], constant], 1)


def _gradients(luma: Tensor) -> Tensor:
    """(n, 1, SIZE, SIZE) -> (n, 2 * HARMONICS, CELLS, CELLS)."""
    smooth = F.avg_pool2d(F.pad(luma, (2, 2, 2, 2), mode="replicate"), 3, 1)
    dx = smooth[:, :, 1:-1, 2:] - smooth[:, :, 1:-1, :-2]
    dy = smooth[:, :, 2:, 1:-1] - smooth[:, :, :-2, 1:-1]
    size = (dx * dx + dy * dy).sqrt()
    cell = SIZE // CELLS
    around = size
    for _ in "xy":
        around = _means(around, cell).transpose(2, 3).contiguous()
    # The root limits the influence of a single edge; the second factor that of noise.
    weight = (size / (around + FAINT)).clamp(max=4).sqrt() * (around / (around + FAINT / 2))
    cos, sin = dx / (size + 1e-6), dy / (size + 1e-6)
    harmonics = []
    for _ in range(HARMONICS):
        harmonics += [weight * cos, weight * sin]
        cos, sin = cos * cos - sin * sin, 2 * cos * sin  # the doubled angle
    return _pool(torch.cat(harmonics, 1))


def _pool(planes: Tensor) -> Tensor:
    """Means over soft, overlapping cells: (n, c, SIZE, SIZE) -> (n, c, CELLS, CELLS).

    Cells overlap so much that cropping a border of 5 % moves little from one cell to the next.
    """
    planes = F.avg_pool2d(planes, 2)  # the soft borders below do not need full resolution
    cell = SIZE // CELLS // 2
    for _ in "xy":
        planes = F.avg_pool2d(_means(planes, 3 * cell // 4), (1, cell)).transpose(2, 3).contiguous()
    return planes


def _means(planes: Tensor, reach: int) -> Tensor:
    """Means along the last axis over `reach` pixels to both sides, fewer at the borders."""
    return F.avg_pool2d(planes, (1, 2 * reach + 1), 1, (0, reach), count_include_pad=False)


def _level(block: Tensor, faint: float) -> Tensor:
    """The block scaled to about unit length, or near zero if its RMS per cell is far below `faint`."""
    length = block.square().sum(1, keepdim=True).sqrt()
    return block / (length + faint * CELLS)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(1, keepdim=True).sqrt()
