"""Decodes image bytes to RGB as open_clip's training does: no EXIF rotation, first frame only."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from made_core.errors import BadImage

# Formats in files named jpg, png or webp: img2dataset can store the bytes as downloaded.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# PIL's own limit is off: `decode` checks `max_pixels` before it decodes any pixel.
Image.MAX_IMAGE_PIXELS = None
# PIL warns about EXIF and palettes that do not matter here. `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """The image as RGB.

    16-bit grey is scaled to 8 bits (PIL would clip it); CMYK, palette and grey images are converted;
    transparency is dropped, as in open_clip.

    Raises:
        BadImage: not an image, a truncated one, or one with more than `max_pixels` pixels.
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
    except Exception as error:  # PIL's decoders can raise almost any exception on damaged input
        text = " ".join(str(error).split())[:200]
        raise BadImage(f"{type(error).__name__}: {text}") from None
