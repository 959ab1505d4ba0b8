"""What open_clip's transform does to an image, on uint8: the resized square, normalised in the batch.

The transform resizes by PIL and hands over float32, at 4.5 ms an image. torchvision's resize of uint8 has
PIL's filter and rounding and takes 0.5 ms; its pixels differ from PIL's by at most 2 of 255, by 0.003 on
average. An image of black and white pixels alone, such as a dithered one, differs more, so PIL resizes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from made_core.errors import BadImage
from made_core.ingest.decode import Pixels

VERSION = 4  # of the pixels; part of the keys. Raise it whenever an image would be seen differently
LONGEST = 32  # maximum aspect ratio that is resized; a square crop would drop the ends anyway


def resizer(transform: Any, mode: str) -> Callable[[Pixels], Pixels]:
    """The geometry of open_clip's transform for images: (height, width, 3) -> (size, size, 3).

    An image that has the model's size is not resized.

    Args:
        transform: open_clip's, which ends in conversion to float and normalisation.
        mode: its `resize_mode`: shortest (side to the model's size, then a crop), squash or longest.

    What it returns raises BadImage where nothing is left of an image's shorter side.
    """
    from torchvision.transforms import Compose, Resize  # here: torchvision takes a second to import

    steps, crops = transform.transforms[:-2], mode == "shortest"
    on_images, first = Compose(steps), steps[0]

    def resized(pixels: Pixels) -> Pixels:
        # A first step of open_clip's own is for images of PIL only.
        if not isinstance(first, Resize) or bilevel(pixels):
            return _by_pil(on_images, pixels)
        sides = _sides(pixels.shape[0], pixels.shape[1], first.size)
        if sides != pixels.shape[:2]:
            # As by torchvision's v2.functional.resize_image, which checks for a tenth of a millisecond.
            # Views are numpy's: each of torch's gives the lock of Python to another thread.
            image = functional.interpolate(
                torch.from_numpy(pixels.reshape(1, *pixels.shape).transpose(0, 3, 1, 2)), size=sides,
                mode=first.interpolation.value, align_corners=False, antialias=True,
            )  # fmt: skip
            pixels = image.numpy()[0].transpose(1, 2, 0)
        return _centre(pixels, *steps[1].size) if crops else pixels

    return lambda pixels: resized(middle(pixels) if crops else pixels)


def _by_pil(transform: Callable[[Image.Image], Image.Image], pixels: Pixels) -> Pixels:
    # Where the whole image is seen, a very long one may have no pixel of its width left.
    try:
        return np.array(transform(Image.fromarray(pixels)))
    except ValueError as error:
        height, width = pixels.shape[:2]
        raise BadImage(f"it has {width} x {height} pixels and cannot be resized: {error}") from None


def _sides(height: int, width: int, size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width after torchvision's Resize: `size` itself, or with the shorter side of that length."""
    if not isinstance(size, int):
        if len(size) == 2:
            return size[0], size[1]
        size = size[0]
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def _centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle of an image that is at least as large; rounded as by torchvision's CenterCrop."""
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def normaliser(transform: Any, device: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """(n, size, size, 3) uint8 -> the model's input, (n, 3, size, size) on its device.

    It is the transform's in fp32, but for rounding. On a GPU, images are copied while it computes the batch
    before. On the CPU the result is valid until the next call: its memory is used again, since fresh pages
    for each batch cost as much as the arithmetic.
    """
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in (transform.transforms[-1].mean, transform.transforms[-1].std)
    )
    scale, shift = 1 / (255 * std), -mean / std
    if device != "cpu":
        copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]

        def on_gpu(images: Tensor) -> Tensor:
            compute = torch.cuda.current_stream()
            with torch.cuda.stream(copies):
                there = images.to(device, non_blocking=True)
            compute.wait_stream(copies)
            there.record_stream(compute)
            return there.permute(0, 3, 1, 2).contiguous().mul(scale).add_(shift).to(dtype)

        return on_gpu

    kept: list[Tensor] = []

    def normalise(images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2)
        if not kept or kept[0].shape != planes.shape:
            with torch.inference_mode(False):  # else it could be written in inference mode only
                kept[:] = [torch.empty(planes.shape)]
        for image, out in zip(planes, kept[0], strict=True):  # one by one they stay in the cache
            out.copy_(image).mul_(scale).add_(shift)
        return kept[0].to(dtype)

    return normalise


def bilevel(pixels: Pixels) -> bool:
    """Whether every value is 0 or 255; two rows tell for nearly all other images."""
    parts = pixels[0], pixels[len(pixels) // 2], pixels
    return not any(part.tobytes().strip(b"\x00\xff") for part in parts)


def middle(pixels: Pixels) -> Pixels:
    """Crops a very long image to its middle: resized as a whole it may not fit in memory."""
    height, width = pixels.shape[:2]
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return pixels
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return np.ascontiguousarray(pixels[top : height - top, left : width - left])
