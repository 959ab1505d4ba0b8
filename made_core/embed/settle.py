"""What `auto` in the recipe's encoder means on this machine, measured once per run and then fixed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from made_core import recipe
from made_core.embed import encoder, models, preprocessing
from made_core.embed.encoder import Encoder
from made_core.ingest.decode import Pixels

GAIN = 1.2  # bf16 must be this many times as fast as fp32: so that a noisy measurement does not choose it
COSINE = 0.9999  # smallest between rows in bf16 and in fp32
RUNS = 3  # of which the fastest counts
LONG = "word " * 500  # a caption that fills the context: the batch that takes most memory
PRODUCT = (128, 768, 768)  # of matrices, as in a ViT; small, for processors that are slow in bf16


@dataclass(frozen=True)
class Settled:
    """The recipe's encoder without `auto`."""

    section: recipe.Encoder
    warning: str | None = None


def settle(section: recipe.Encoder) -> Settled:
    """Settles device, precision, batch size and captions of an encoder.

    precision auto on a CPU: bf16 where this processor runs the model at least GAIN times as fast in it and
    the rows stay within COSINE of fp32's, else fp32. batch_size auto on a GPU: halved until a batch of
    images, and one of captions, fit in its memory.

    Raises:
        EncoderError, Transient: as `encoder.resolve` and `encoder.load`.
    """
    resolved = encoder.resolve(section)
    if section.model in recipe.BUILTIN_ENCODERS:
        return Settled(resolved)
    embeds = models.embeds_captions(section)
    settled = _measured(section, resolved.model_copy(update={"captions": "embed" if embeds else "skip"}))
    notes = [settled.warning, preprocessing.doubt(section)]
    if section.captions == "auto" and not embeds:
        notes.append(f"captions are not embedded: {models.no_captions(models.config_of(section))}")
    return replace(settled, warning="; ".join(note for note in notes if note) or None)


def _measured(section: recipe.Encoder, resolved: recipe.Encoder) -> Settled:
    if resolved.device == "cuda":
        return Settled(fitting(resolved) if section.batch_size == "auto" else resolved)
    speed = product_speed(torch.bfloat16)
    if section.precision == "auto" and speed >= GAIN and _bf16_is_better(resolved):
        return Settled(resolved.model_copy(update={"precision": "bf16"}))
    if section.precision == "bf16" and speed < 1:
        return Settled(
            resolved,
            "encoder.precision is bf16, but products in bf16 run at "
            f"{speed:.2g} of the speed of fp32 on this processor; precision auto chooses the faster one",
        )
    return Settled(resolved)


def product_speed(dtype: torch.dtype) -> float:
    """Speed of a matrix product relative to fp32: in bf16 a tenth without the instructions, about 2 with."""
    m, inner, n = PRODUCT
    with torch.inference_mode():
        left, right = torch.randn(m, inner), torch.randn(inner, n)
        wide = _seconds(partial(torch.mm, left, right))
        return wide / _seconds(partial(torch.mm, left.to(dtype), right.to(dtype)))


def _bf16_is_better(section: recipe.Encoder) -> bool:
    fine = encoder.load(section.model_copy(update={"precision": "fp32"}))
    coarse = encoder.load(section.model_copy(update={"precision": "bf16"}))
    images = _images(fine.encoding.batch_size, fine.encoding.image_size)
    gain = _seconds(partial(fine.encode, images)) / _seconds(partial(coarse.encode, images))
    cosines = (fine.encode(images) * coarse.encode(images)).sum(axis=1)
    return gain >= GAIN and float(cosines.min()) >= COSINE


def fitting(
    section: recipe.Encoder, load: Callable[[recipe.Encoder], Encoder] = encoder.load
) -> recipe.Encoder:
    """`section` with its batch size halved until a batch, and one of captions, fit in the device's memory.

    Raises:
        EncoderError: the model, or a single image, does not fit.
    """
    size = int(section.batch_size)
    loaded: Encoder | None = None
    while size:
        smaller = section.model_copy(update={"batch_size": size})
        try:
            loaded = load(smaller)
            loaded.encode(_images(size, loaded.encoding.image_size))
            if loaded.text is not None:
                loaded.text.encode([LONG] * loaded.text.batch_size)
            return smaller
        except torch.OutOfMemoryError:
            size //= 2
        # Else the next one is loaded beside it.
        loaded = None
        encoder.load.cache_clear()
    raise encoder.no_room(section)


def _images(n: int, size: int) -> list[Pixels]:
    """n soft random images, (size, size, 3), the same each time."""
    generator = torch.Generator().manual_seed(0)
    blobs = 255 * torch.rand((n, 3, 7, 7), generator=generator)
    soft = torch.nn.functional.interpolate(blobs, size=(size, size), mode="bilinear").to(torch.uint8)
    return list(soft.permute(0, 2, 3, 1).numpy())


def _seconds(do: Callable[[], object]) -> float:
    """The fastest of RUNS, after one that does not count."""
    do()
    spent = []
    for _ in range(RUNS):
        started = time.perf_counter()
        do()
        spent.append(time.perf_counter() - started)
    return min(spent)
