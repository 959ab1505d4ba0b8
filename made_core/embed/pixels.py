"""What open_clip's transform does to an image, on uint8: the resized square, normalised in the batch.

The transform resizes by PIL and hands over float32, at 4.5 ms an image. torchvision's resize of uint8 has
PIL's filter and rounding and takes 0.5 ms; its pixels differ from PIL's by at most 2 of 255, by 0.003 on
average. An image of black and white pixels alone, such as a dithered one, differs more, so PIL resizes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from made_core.ingest.decode import Pixels

VERSION = 4  # of the pixels; part of the keys. Raise it whenever an image would be seen differently
LONGEST = 32  # maximum aspect ratio that is resized; a square crop would drop the ends anyway


def resizer(transform: Any, mode: str) -> Callable[[Pixels], Tensor]:
    """The geometry of open_clip's transform for images: (height, width, 3) -> (3, size, size) uint8.

    An image that has the model's size is not resized.

    Args:
        transform: open_clip's, which ends in conversion to float and normalisation.
        mode: its `resize_mode`: shortest (side to the model's size, then a crop), squash or longest.
    """
    from torchvision.transforms import Compose, Resize  # here: torchvision takes a second to import
    from torchvision.transforms.v2 import functional  # the transforms themselves take a tenth longer

    steps, crops = transform.transforms[:-2], mode == "shortest"
    on_images, first = Compose(steps), steps[0]
    sides = [first.size] if isinstance(getattr(first, "size", None), int) else getattr(first, "size", None)

    def resized(pixels: Pixels) -> Tensor:
        # A first step of open_clip's own is for images of PIL only.
        if not isinstance(first, Resize) or bilevel(pixels):
            return torch.from_numpy(np.array(on_images(Image.fromarray(pixels)))).permute(2, 0, 1)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        square: Tensor = functional.resize_image(image, sides, first.interpolation, antialias=True)
        return functional.center_crop_image(square, steps[1].size) if crops else square

    return lambda pixels: resized(middle(pixels) if crops else pixels).contiguous()


def normaliser(transform: Any, device: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """(n, 3, size, size) uint8 -> the model's input on its device, the transform's in fp32 but for rounding.

    The result is valid until the next call: on the CPU its memory is used again, since fresh pages for each
    batch cost as much as the arithmetic.
    """
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in (transform.transforms[-1].mean, transform.transforms[-1].std)
    )
    scale, shift = 1 / (255 * std), -mean / std
    kept: list[Tensor] = []

    def normalise(pixels: Tensor) -> Tensor:
        if not kept or kept[0].shape != pixels.shape:
            with torch.inference_mode(False):  # else it could be written in inference mode only
                kept[:] = [torch.empty(pixels.shape, device=device)]
        wide = kept[0].copy_(pixels, non_blocking=True)
        return wide.mul_(scale).add_(shift).to(dtype)

    return normalise


def bilevel(pixels: Pixels) -> bool:
    """Whether every value is 0 or 255; two rows tell for nearly all other images."""
    parts = pixels[0], pixels[len(pixels) // 2], pixels
    return all(bool(((part == 0) | (part == 255)).all()) for part in parts)


def middle(pixels: Pixels) -> Pixels:
    """Crops a very long image to its middle: resized as a whole it may not fit in memory."""
    height, width = pixels.shape[:2]
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return pixels
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return np.ascontiguousarray(pixels[top : height - top, left : width - left])
