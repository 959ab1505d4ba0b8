"""Images of all formats decode to RGB; other data is refused within limits on memory."""

from __future__ import annotations

import resource
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageSequence

from made_core.errors import BadImage
from made_core.ingest.decode import decode
from tests.support.factories import encoded_image

LIMIT = 100_000_000


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """The image's bytes in a format."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> npt.NDArray[np.int16]:
    """The result of `decode`."""
    image = decode(data, LIMIT)
    assert image.dtype == np.uint8
    assert image.shape[2:] == (3,)
    assert image.flags.writeable
    return image.astype(np.int16)


def colours() -> Image.Image:
    """64 x 48, smooth."""
    return Image.open(BytesIO(encoded_image(3, format="PNG")))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_keep_each_pixel(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    assert (pixels(encoded(colours(), format, **options)) == np.asarray(colours())).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(format: str) -> None:
    found = pixels(encoded(colours(), format, quality=95))
    assert found.shape == (48, 64, 3)
    assert np.abs(found - np.asarray(colours())).mean() < 4


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grey(format: str) -> None:
    found = pixels(encoded(colours().convert("L"), format))
    assert (found[..., 0] == found[..., 1]).all()
    assert np.abs(found[..., 0] - np.asarray(colours().convert("L"))).mean() < 2


def test_one_bit() -> None:
    found = pixels(encoded(colours().convert("1"), "PNG"))
    assert set(np.unique(found)) == {0, 255}


def test_palette() -> None:
    image = colours().quantize(16)
    assert (pixels(encoded(image, "PNG")) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = colours().quantize(16)
    data = encoded(image, "PNG", transparency=transparency)
    assert (pixels(data) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_not_blended(mode: str) -> None:
    image = colours().convert(mode)
    image.putalpha(0)
    plain = colours() if mode == "RGBA" else colours().convert("L").convert("RGB")
    assert (pixels(encoded(image, "PNG")) == np.asarray(plain)).all()


def test_cmyk() -> None:
    data = encoded(colours().convert("CMYK"), "JPEG", quality=95)
    assert Image.open(BytesIO(data)).mode == "CMYK"
    assert np.abs(pixels(data) - np.asarray(colours())).mean() < 5


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    data = encoded(Image.fromarray(grey), "PNG")
    assert Image.open(BytesIO(data)).mode.startswith("I")
    found = pixels(data)
    assert (found[..., 0] == grey >> 8).all()
    assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert len(list(ImageSequence.Iterator(Image.open(BytesIO(data))))) == 3
    assert (pixels(data) == [255, 0, 0]).all()


def test_one_pixel() -> None:
    assert (pixels(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")) == [1, 2, 3]).all()


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(colours(), "JPEG", exif=exif, quality=95)
    assert Image.open(BytesIO(data)).getexif()[0x0112] == 6
    assert decode(data, LIMIT).shape == (48, 64, 3)


def by_pil(data: bytes) -> npt.NDArray[np.uint8] | None:
    """PIL's pixels; None where it refuses the image."""
    try:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:
        return None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (700, 8)])
def test_jpegs_have_pils_pixels(
    mode: str, subsampling: str, progressive: bool, size: tuple[int, int]
) -> None:
    image = colours().convert(mode).resize(size)
    data = encoded(image, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    assert (decode(data, LIMIT) == by_pil(data)).all()


def test_jpegs_stored_as_rgb() -> None:
    data = encoded(colours(), "JPEG", quality=95, keep_rgb=True)
    assert (decode(data, LIMIT) == by_pil(data)).all()


@pytest.mark.parametrize("seed", range(4))
def test_damaged_jpegs_are_what_pil_makes_of_them(seed: int) -> None:
    """The same ones are refused, and the others have the same pixels."""
    dice = np.random.default_rng(seed)
    whole = np.frombuffer(encoded_image(seed, (96, 80)), np.uint8)
    refused = 0
    for _ in range(100):
        broken = whole.copy()
        broken[dice.integers(2, len(whole), 3)] = dice.integers(0, 256, 3)
        data = broken[: len(whole) - dice.integers(0, 3)].tobytes() + bytes(dice.integers(0, 3))
        expected = by_pil(data)
        if expected is None:
            refused += 1
            with pytest.raises(BadImage):
                decode(data, LIMIT)
        else:
            assert (decode(data, LIMIT) == expected).all()
    assert refused


def test_large_images_are_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("made_core.ingest.decode.BAND", 200)
    assert (pixels(encoded(colours(), "PNG")) == np.asarray(colours())).all()


def test_nothing() -> None:
    with pytest.raises(BadImage, match="0 bytes"):
        decode(b"", LIMIT)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_truncated_image(format: str, share: float) -> None:
    data = encoded_image(1, (160, 120), format)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize(
    "data",
    [b"words", b"<html><body>404</body></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7",
     b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", encoded(colours(), "TIFF"), b"\xff\xd8\xff\xe0"],
)  # fmt: skip
def test_data_that_is_not_an_image(data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data, LIMIT)
    assert "\n" not in str(caught.value)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_bomb_is_refused_by_its_header() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 22))) + chunk(b"IEND", b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match=r"50000 x 50000 .* allowed: 100000000 \(reading.max_pixels\)"):
        decode(bomb, LIMIT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB; decoded it is 7.5 GB


def test_errors_of_other_kinds() -> None:
    """PIL raises SyntaxError here, on loading."""
    data = encoded_image(0, format="PNG")
    at = data.index(b"IDAT") - 4
    part = zlib.compress(bytes(9))
    with pytest.raises(BadImage, match=r"SyntaxError: broken PNG file"):
        decode(data[:at] + chunk(b"IDAT", part) + b"\0\0\0\1\1\2\3\4" + bytes(50), LIMIT)


def test_the_bound_is_exact() -> None:
    data = encoded_image(0, (40, 30), "PNG")
    assert decode(data, 1200).shape == (30, 40, 3)
    with pytest.raises(BadImage, match="1200 pixels, allowed: 1199"):
        decode(data, 1199)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_a_bad_image_or_none(seed: int) -> None:
    """PIL's decoders raise many kinds of errors."""
    dice = np.random.default_rng(seed)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = np.frombuffer(encoded_image(seed, format=format), np.uint8)
        for _ in range(25):
            broken = data.copy()
            broken[dice.integers(0, min(300, len(data)), 4)] = dice.integers(0, 256, 4)
            try:
                decode(broken.tobytes(), 1_000_000)
            except BadImage as error:
                assert "\n" not in str(error)


def test_threads_leave_the_warnings_as_they_are() -> None:
    """`catch_warnings` in several threads leaks its filters into the process."""
    image = colours().quantize(16).resize((800, 800))  # large enough that the threads overlap
    data = [encoded(image, "PNG", transparency=bytes(range(0, 256, 16)))] * 24
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda d: decode(d, LIMIT), data))
    assert list(warnings.filters) == before
