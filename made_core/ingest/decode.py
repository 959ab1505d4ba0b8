"""Image bytes -> RGB images, as open_clip's training sees them: no EXIF rotation, first frame."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from made_core.errors import BadImage

# What img2dataset leaves under the names jpg, png and webp: it may keep the bytes as downloaded.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# The bound is ours: `max_pixels`, checked before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# PIL warns of EXIF and palettes that do not matter. Not `catch_warnings`: it is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The image as RGB.

    16-bit greys are scaled to 8 bits (PIL would clip them); CMYK, palette and grey are converted;
    transparency is dropped, as open_clip does.

    Raises:
        BadImage: no image, a truncated one, or one with more than `max_pixels` pixels.
    """
    if not data:
        raise BadImage("it has 0 bytes")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(
                    f"it has {width} x {height} = {width * height} pixels, "
                    f"allowed: {max_pixels} (reading.max_pixels)"
                )
            image.load()
            if image.mode.startswith("I"):
                grey = np.asarray(image).astype(np.uint32) >> 8
                return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
            rgb: Image.Image = image.convert("RGB")
            return rgb
    except UnidentifiedImageError:
        raise BadImage(f"not one of {', '.join(FORMATS)}") from None
    except BadImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise almost anything on damaged input
        text = " ".join(str(error).split())[:200]
        raise BadImage(f"{type(error).__name__}: {text}") from None
