"""Image descriptors without weights. They capture layout, not meaning: for near-duplicates only."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from PIL import Image
from torch import Tensor

from made_core.embed import means

VERSION = 2  # of the rows; raise it whenever the same pixels would give another row
SIZE = 24  # pixels: side of the square that images are resized to
GRIDS = (3, 6)  # soft cells per side: the coarse ones bear turning and cropping, the fine ones tell apart
CELL = 4  # pixels: side of a cell, once the square is reduced for its grid
HARMONICS = 3  # of the gradient's angle: 1, 2 and 4
CHANNELS = 4 + 2 * HARMONICS
TURNED = 24  # numbers that stand for the antisymmetric part: see `_symmetric`
# No two different photographs of 1,145 are nearer than .874 (`make bench-quality`): CD covers on one table.
DEFAULT_EPS = 0.12

MEAN = 0.2  # weight of the mean colour, against 1 for all else
TURN = 5.0  # radians from one end of luma, or of an opponent colour, to the other: less than a circle
# Contrast (1 = black to white) below which a block fades, so that coding noise is not amplified.
FAINT = 0.003
FAINT_EDGES = 0.03  # the same of the blocks of edges, in the units of `_gradients`
EDGE = 0.05  # gradient below which an edge fades

TRIMMED = 3 * SIZE  # pixels: the side, at least, of the reduced image whose margins are looked for
PLAIN = 2  # levels of grey, of 255: the pixels of a plain line differ by no more from its median
MOST_OF = 0.4  # of the pixels of a plain line: a caption may be written on it
LEFT = 0.25  # of the width and of the height must be left, or nothing is trimmed


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image without plain margins, resized to the square: (3, SIZE, SIZE) uint8, sRGB as stored.

    Borders, bars and the paper around a drawing say little, and would make unlike images alike. Bicubic
    with antialiasing, after a box reduction to at least TRIMMED pixels per side: one pass over a large image.
    """
    factors = max(1, image.width // TRIMMED), max(1, image.height // TRIMMED)
    small = image.reduce(factors) if factors != (1, 1) else image
    square = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=_content(small))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def describe(pixels: Tensor, mirrored: bool = True) -> Tensor:
    """(n, 3, SIZE, SIZE) uint8 -> (n, dim) float32 unit rows.

    Blocks of luma minus its mean, two opponent colours, the amount of edges minus its mean, and gradient
    directions, each over a coarse and a fine grid of soft cells and scaled to the same length; and the
    mean colour, the only non-zero block of a uniform image. Directions are counted as in
    HOG (Dalal and Triggs 2005), but by their Fourier harmonics (Liu et al. 2014), which have zero mean:
    unrelated images have a cosine near 0, not .7.

    A row depends only on its own image, bit for bit, whatever the batch: no operation mixes rows, and
    there is no matrix product, whose summation order depends on the shape.

    Args:
        mirrored: whether an image and its mirror image get the same row.
    """
    opponent = _opponent(pixels)
    planes = torch.cat([opponent, _gradients(opponent[:, :1])], 1)
    mean = opponent.mean((2, 3))
    even, odd = zip(*(_halves(_levelled(_pool(planes, grid))) for grid in GRIDS), strict=True)
    symmetric, rest = torch.cat(even, 1), torch.cat(odd, 1)
    blocks = [symmetric, _symmetric(rest) if mirrored else rest, MEAN * _angles(mean)]
    return _unit(torch.cat(blocks, 1))


def describe_directed(pixels: Tensor) -> Tensor:
    """`describe` that tells an image from its mirror image."""
    return describe(pixels, mirrored=False)


def mean_colour(pixels: Tensor) -> Tensor:
    """(n, 3, h, w) uint8 -> (n, 4) float32 unit rows of the mean colour only: a baseline."""
    return _unit(_colour(_opponent(pixels).mean((2, 3))))


def _content(image: Image.Image) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) without plain margins; all if hardly anything would be left."""
    grey = np.asarray(image.convert("L")).astype(np.int16)
    height, width = grey.shape
    top, bottom = _plain(grey), height - _plain(grey[::-1])
    if bottom - top < LEFT * height:
        return 0, 0, width, height
    columns = grey[top:bottom].T
    left, right = _plain(columns), width - _plain(columns[::-1])
    if right - left < LEFT * width:
        return 0, 0, width, height
    return left, top, right, bottom


def _plain(lines: npt.NDArray[np.int16]) -> int:
    """How many of the first lines are plain, of the first one's grey; if any, with the next, a mixture."""
    middle, most = np.sort(lines[0])[lines.shape[1] // 2], MOST_OF * lines.shape[1]
    if (np.abs(lines[0] - middle) <= PLAIN).sum() < most:
        return 0  # most photographs end here, before the whole image is looked at
    other = (np.abs(lines - middle) <= PLAIN).sum(axis=1) < most
    count = int(other.argmax()) if other.any() else len(lines)
    return count and count + 1


def _opponent(pixels: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in 0..1, red-green and yellow-blue in -.5...5; (n, 3, h, w) float32."""
    red, green, blue = (pixels.float() / 255).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, (red - green) / 2, (red + green) / 4 - blue / 2], 1)


def _colour(mean: Tensor) -> Tensor:
    # Luma relative to mid-grey; with the constant, the row of a mid-grey image is not zero.
    constant = torch.full_like(mean[:, :1], 0.2)
    return torch.cat([mean[:, :1] - 0.5, mean[:, 1:], constant], 1)


def _angles(mean: Tensor) -> Tensor:
    """(n, 3) -> (n, 6) unit rows, whose cosine depends only on how far apart two colours are."""
    angle = TURN * mean
    return torch.cat([angle.cos(), angle.sin()], 1) / 3**0.5


def _gradients(luma: Tensor) -> Tensor:
    """(n, 1, SIZE, SIZE) -> (n, 1 + 2 * HARMONICS, SIZE, SIZE): amount of edge, harmonics of its angle."""
    smooth = means.inner(F.pad(luma, (2, 2, 2, 2), mode="replicate"))
    dx = smooth[:, :, 1:-1, 2:] - smooth[:, :, 1:-1, :-2]
    dy = smooth[:, :, 2:, 1:-1] - smooth[:, :, :-2, 1:-1]
    size = (dx * dx + dy * dy).sqrt()
    around = means.around(means.around(size, 3, SIZE // 6), 2, SIZE // 6)
    # The root limits the influence of a single edge; the second factor that of noise.
    weight = (size / (around + EDGE)).clamp(max=4).sqrt() * (around / (around + EDGE / 2))
    cos, sin = dx / (size + 1e-6), dy / (size + 1e-6)
    planes = [weight]
    for _ in range(HARMONICS):
        planes += [weight * cos, weight * sin]
        cos, sin = cos * cos - sin * sin, 2 * cos * sin  # the doubled angle
    return torch.cat(planes, 1)


def _pool(planes: Tensor, grid: int) -> Tensor:
    """Means over soft, overlapping cells: (n, c, SIZE, SIZE) -> (n, c, grid, grid).

    Cells overlap so much that cropping a border of 5 % moves little from one cell to the next.
    """
    planes = means.squares(planes, SIZE // (grid * CELL))  # the soft borders do not need full resolution
    for axis in (3, 2):
        planes = means.cells(means.around(planes, axis, 3 * CELL // 4), axis, CELL)
    return planes


def _levelled(cells: Tensor) -> Tensor:
    """(n, CHANNELS, g, g): each block about as long as the others, or near zero if it is faint."""
    n, _, g, _ = cells.shape
    luma, edges = (cells[:, c : c + 1] - cells[:, c : c + 1].mean((2, 3), keepdim=True) for c in (0, 3))
    blocks = [luma, cells[:, 1:3], edges]
    blocks += [cells[:, c : c + 2] for c in range(4, CHANNELS, 2)]
    whole = (len(GRIDS) * len(blocks)) ** 0.5
    levelled = []
    for number, block in enumerate(blocks):
        length = block.square().flatten(1).sum(1).sqrt().view(n, 1, 1, 1)
        faint = FAINT if number < 2 else FAINT_EDGES
        levelled.append(block / (whole * (length + faint * g)))
    return torch.cat(levelled, 1)


def _halves(cells: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of (n, CHANNELS, g, g) that stay and that change sign in the mirror image, (n, m) each.

    Together they are as long as the cells.
    """
    g = cells.shape[3]
    image = cells.flip(3) * _mirror_signs()
    columns = torch.full(((g + 1) // 2,), 0.5**0.5)  # the other columns are the same or the negative
    if g % 2:
        columns[-1] = 0.5
    even, odd = (half[..., : len(columns)] * columns for half in (cells + image, cells - image))
    return even.flatten(1), odd.flatten(1)


@cache
def _mirror_signs() -> Tensor:
    """(CHANNELS, 1, 1) -1 where the mirror image negates: angle a becomes pi - a."""
    signs = [1.0] * 4
    for order in (1, 2, 4)[:HARMONICS]:
        signs += [1.0, -1.0] if order % 2 == 0 else [-1.0, 1.0]
    return torch.tensor(signs).view(-1, 1, 1)


def _symmetric(odd: Tensor) -> Tensor:
    """(n, m) -> (n, TURNED (TURNED + 1) / 2), the same for x and -x, as long as x.

    The products of all pairs of coordinates, so that cosines become squares of cosines. A random
    projection to TURNED coordinates keeps them few.
    """
    short = (odd[:, None, :] * _projection(odd.shape[1])).sum(2)
    length = odd.square().sum(1, keepdim=True).sqrt()
    unit = short / (short.square().sum(1, keepdim=True).sqrt() + 1e-6)
    i, j = torch.triu_indices(TURNED, TURNED)
    twice = torch.where(i == j, 1.0, 2.0**0.5)  # (i, j) stands for (j, i) too
    products: Tensor = unit[:, i] * unit[:, j] * twice * length
    return products


@cache
def _projection(width: int) -> Tensor:
    """(TURNED, width) signs, from a hash: the same with every library and version."""
    bits = hashlib.shake_128(b"made").digest(TURNED * width // 8 + 1)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8))[: TURNED * width]
    matrix: Tensor = torch.from_numpy(signs.astype(np.float32) * 2 - 1).view(TURNED, width) / width**0.5
    return matrix


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(1, keepdim=True).sqrt()
