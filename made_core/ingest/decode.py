"""Decodes image bytes to RGB as open_clip's training does: no EXIF rotation, first frame only."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from made_core.errors import BadImage

Pixels = npt.NDArray[np.uint8]  # (height, width, 3) RGB

# Formats in files named jpg, png or webp: img2dataset can store the bytes as downloaded.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
BAND = 1 << 22  # pixels of a PIL image that are copied at a time: numpy would hold a large one three times
# PIL's own limit is off: `decode` checks `max_pixels` before it decodes any pixel.
Image.MAX_IMAGE_PIXELS = None
# PIL warns about EXIF and palettes that do not matter here. `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The image as RGB, writable.

    16-bit grey is scaled to 8 bits (PIL would clip it); CMYK, palette and grey images are converted;
    transparency is dropped, as in open_clip.

    simplejpeg decodes sound RGB and grey JPEGs, in half of PIL's time and to the same pixels, PIL all else:
    it reads JPEGs with harmless damage too.

    Raises:
        BadImage: not an image, a truncated one, or one with more than `max_pixels` pixels.
    """
    if not data:
        raise BadImage("it has 0 bytes")
    try:
        if (sound := _sound_jpeg(data, max_pixels)) is not None:
            return sound
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size(width, height, max_pixels)
            image.load()
            if image.mode.startswith("I"):
                grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
                return np.stack([grey] * 3, axis=-1)
            return _copied(image.convert("RGB"))
    except UnidentifiedImageError:
        raise BadImage(f"not one of {', '.join(FORMATS)}") from None
    except BadImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders can raise almost any exception on damaged input
        text = " ".join(str(error).split())[:200]
        raise BadImage(f"{type(error).__name__}: {text}") from None


def _sound_jpeg(data: bytes, max_pixels: int) -> Pixels | None:
    """An RGB or grey JPEG's pixels; None: it is another image, or libjpeg has warnings about it."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB", "Gray"):
            return None
        _check_size(width, height, max_pixels)
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
        return pixels
    except ValueError:
        return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage(
            f"it has {width} x {height} = {width * height} pixels, allowed: {max_pixels} (reading.max_pixels)"
        )


def _copied(image: Image.Image) -> Pixels:
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    band = max(1, BAND // width)
    for top in range(0, height, band):
        bottom = min(height, top + band)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels
