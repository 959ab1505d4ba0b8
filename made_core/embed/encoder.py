"""The encoders, images -> unit rows: open_clip's models, and built-in descriptors without weights."""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from made_core import recipe
from made_core.digests import digest
from made_core.embed import last_block, models, perceptual, pixels, preprocessing, text_tower
from made_core.embed.text_tower import TextTower
from made_core.errors import EncoderError, Transient
from made_core.ingest.decode import Pixels
from made_core.types import Encoding

Pending = Callable[[], npt.NDArray[np.float32]]  # waits for rows
CLIP_EPS = 0.05  # SemDeDup reports for CLIP: eps 0.03 to 0.12 keeps 72 to 50 % of LAION
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALLOCATED = 0.9  # of a process's part of a GPU's memory
CONTEXT = 600_000_000  # bytes of a GPU that CUDA takes for a process, beside what the process allocates
FORMAT = 1  # of stored embeddings; part of every key. Raise it when their meaning changes
# By the names in recipe.BUILTIN_ENCODERS: (n, 3, SIZE, SIZE) uint8 -> (n, dim) unit rows.
BUILTIN: dict[str, Callable[[Tensor], Tensor]] = {
    "perceptual": perceptual.describe,
    "mean-colour": perceptual.mean_colour,
}


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder."""

    encoding: Encoding
    to_pixels: Callable[[Pixels], Pixels]  # (height, width, 3) RGB -> (size, size, 3)
    forward: Callable[[Tensor], Tensor]  # (n, size, size, 3) uint8 -> (n, dim), any norm
    text: TextTower | None = None  # None: captions are not embedded

    @property
    def queue(self) -> int:
        """Batches that the device takes while it computes one."""
        return 1 if self.encoding.device == "cuda" else 0

    def room(self) -> Tensor:
        """(batch_size, size, size, 3) uint8 zeros, from which the device copies without waiting."""
        size = self.encoding.image_size
        shape = (self.encoding.batch_size, size, size, 3)
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=self.encoding.device == "cuda")

    def start(self, images: Tensor) -> Pending:
        """Begins with a batch; on a CPU it is done when this returns.

        A batch is always whole, so that equal images get equal rows whatever the rest of it is.

        Args:
            images: from `room`; unchanged until the rows are taken.

        Returns:
            For (batch_size, dim) float32 unit rows. A row that is zero or not finite is NaN.
        """
        with torch.inference_mode():
            found = self.forward(images).to("cpu", non_blocking=True)
        done: Any = None
        if self.encoding.device == "cuda":
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # else waiting takes a core
            done.record()

        def rows() -> npt.NDArray[np.float32]:
            if done is not None:
                done.synchronize()
            with torch.inference_mode():
                wide = found.float()
                result: npt.NDArray[np.float32] = (wide / wide.norm(dim=1, keepdim=True)).numpy()
            result[~np.isfinite(result).all(axis=1)] = np.nan
            return result

        return rows

    def encode(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """(n, dim) float32 unit rows, as of `start`, of n <= batch_size results of `to_pixels`."""
        batch = self.room()
        batch.numpy()[: len(images)] = images
        return self.start(batch)()[: len(images)]


def resolve(section: recipe.Encoder) -> recipe.Encoder:
    """`section` with device, precision and batch size resolved for this machine; `settle` measures them.

    Raises:
        EncoderError: the device is cuda and this machine has none.
    """
    has_cuda = torch.cuda.is_available()
    if section.device == "cuda" and not has_cuda:
        raise EncoderError("encoder.device is cuda, but this worker sees no GPU; allowed: auto, cpu")
    device = ("cuda" if has_cuda else "cpu") if section.device == "auto" else section.device
    precision = section.precision
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "fp32"
    batch = section.batch_size
    if batch == "auto":
        # On the CPU a model's rate is flat from 8 images up; a shard's last batch is padded.
        batch = 256 if device == "cuda" else 32 if section.model in BUILTIN else 8
    return section.model_copy(update={"device": device, "precision": precision, "batch_size": batch})


def take_gpu(section: recipe.Encoder, work: recipe.Work) -> None:
    """Checks the GPU that a task reserves, and limits this process to its part of the GPU's memory.

    So a batch that fits does so beside others. A task that has a whole GPU takes the limit of an earlier task
    off.

    Raises:
        EncoderError: PyTorch cannot use the GPU: its driver is too old, this build has no kernels for it,
            another process has it alone, or it is broken.
    """
    gpus = work.gpus_per_task
    if section.device != "cuda" or gpus == "auto" or not gpus:
        return
    try:
        _use_gpu()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build without CUDA
        raise EncoderError(
            f"PyTorch {torch.__version__} cannot use the GPU of {socket.gethostname()} (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')}): {_first_line(error)}; docs/pbs.md names the "
            "causes; encoder.device: cpu embeds without GPUs"
        ) from error
    fraction = 1.0
    if gpus < 1:
        fraction = max(0.01, min(ALLOCATED * gpus, gpus - CONTEXT / torch.cuda.mem_get_info()[1]))
    torch.cuda.set_per_process_memory_fraction(fraction)


def _use_gpu() -> None:
    """Runs a kernel: that a GPU is there does not say that it works. Raises RuntimeError, AssertionError."""
    torch.ones(1, device="cuda").add_(1).item()


@lru_cache(maxsize=1)
def load(section: recipe.Encoder) -> Encoder:
    """The encoder of a resolved recipe section; cached in the process for the next task.

    Raises:
        EncoderError: unknown model, tag or file, a checkpoint that does not fit the model, or a patch
            size that does not divide the image size, or too little memory of the device.
        Transient: the weights could not be read or downloaded; a retry may succeed.
    """
    try:
        loaded = _builtin(section) if section.model in BUILTIN else _open_clip(section)
    except torch.OutOfMemoryError:
        raise no_room(section) from None
    gc.freeze()  # what imports and the model made stays: else the index of each shard has all of it searched
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)  # else extension modules report leaks
    return loaded


def no_room(section: recipe.Encoder) -> EncoderError:
    """The error of a model that does not fit in the device's memory, whatever the batch size."""
    remedy = "; work.gpus_per_task: 1 gives a task all of it" if section.device == "cuda" else ""
    return EncoderError(f"{section.model} does not fit in the memory of the {section.device} device{remedy}")


def _encoding(section: recipe.Encoder, facts: list[Any], dim: int, size: int, eps: float) -> Encoding:
    setup = {"device": section.device, "precision": section.precision, "batch_size": section.batch_size}
    key = digest([FORMAT, section.model, setup, facts])
    return Encoding(key, section.model, dim, size, section.device, section.precision,
                    int(section.batch_size), eps, eps, eps_is_default=True)  # fmt: skip


def _builtin(section: recipe.Encoder) -> Encoder:
    if section.device != "cpu" or section.precision != "fp32":
        section = section.model_copy(update={"device": "cpu", "precision": "fp32"})
    describe = BUILTIN[section.model]
    facts: list[Any] = [perceptual.VERSION]
    if section.mirrored is False and describe is perceptual.describe:
        describe, facts = perceptual.describe_directed, [*facts, "directed"]
    size = perceptual.SIZE
    dim = describe(torch.zeros((1, 3, size, size), dtype=torch.uint8)).shape[1]

    def to_pixels(image: Pixels) -> Pixels:
        return perceptual.to_pixels(Image.fromarray(image)).permute(1, 2, 0).numpy()

    def forward(images: Tensor) -> Tensor:
        return describe(images.permute(0, 3, 1, 2).contiguous())

    encoding = _encoding(section, facts, dim, size, perceptual.DEFAULT_EPS)
    return Encoder(encoding, to_pixels, forward)


def _open_clip(section: recipe.Encoder) -> Encoder:
    import open_clip  # here, because it takes seconds, which the built-in encoders do not need

    vision = models.config_of(section).get("vision_cfg", {})
    if section.config is not None:
        open_clip.add_model_config(Path(section.config).expanduser())
    seen = preprocessing.of(section)
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            section.model, pretrained=models.weights(section), device=section.device,
            image_mean=seen.mean, image_std=seen.std,
            image_interpolation=seen.interpolation, image_resize_mode=seen.resize_mode,
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
        text = f"{section.model} with pretrained {section.pretrained}: {_first_line(error)}"
        if str(error).startswith("Failed to download"):  # open_clip's message for any error of the hub
            raise Transient(
                f"the weights {section.pretrained} of {section.model} cannot be downloaded here; on a "
                "machine with network that shares this home folder: made models fetch --recipe RECIPE "
                f"({_first_line(error)})"
            ) from error
        raise EncoderError(text) from None
    except OSError as error:  # of the disk: a retry may succeed
        raise Transient(f"{section.model} with pretrained {section.pretrained}: {error}") from error
    except Exception as error:  # unpickling a file that is not a checkpoint can raise almost anything
        raise EncoderError(
            f"encoder.pretrained: {section.pretrained} is not a checkpoint ({type(error).__name__})"
        ) from None
    dtype = DTYPES[section.precision]
    tower = None
    if models.embeds_captions(section):
        tower = text_tower.of(model.to(dtype).eval(), section, partial(_text_key, section))
    visual = model.visual.to(dtype).eval()
    to_pixels = pixels.resizer(transform, visual.preprocess_cfg["resize_mode"])
    normalise = pixels.normaliser(transform, section.device, dtype)

    def forward(batch: Tensor) -> Tensor:
        rows = visual(normalise(batch))
        vectors: Tensor = rows[0] if isinstance(rows, tuple) else rows  # CoCa returns (rows, tokens)
        return vectors

    facts = [_digest(visual.state_dict()), str(transform), vision, pixels.VERSION]
    if last_block.of_images(visual) is not None:
        facts.append(last_block.VERSION)
    blank = to_pixels(np.zeros((8, 8, 3), np.uint8))
    with torch.inference_mode():
        dim = forward(torch.from_numpy(blank)[None]).shape[-1]
    encoding = _encoding(section, facts, dim, blank.shape[0], CLIP_EPS)
    if tower is not None:
        if (length := tower.encode(["a caption"]).shape[1]) != dim:
            raise EncoderError(
                f"{section.model}: rows of captions have {length} numbers, those of images {dim}; "
                "encoder.captions: skip embeds images only"
            )
        encoding = replace(encoding, caption_key=tower.key)
    return Encoder(encoding, to_pixels, forward, tower)


def _text_key(section: recipe.Encoder, weights: dict[str, Tensor], facts: Sequence[object]) -> str:
    return digest([text_tower.VERSION, section.device, section.precision, _digest(weights), *facts])


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(error).__name__


def with_eps(encoding: Encoding, eps: float | None) -> Encoding:
    """The encoding with the recipe's eps; with its default if that is None."""
    return encoding if eps is None else replace(encoding, eps=eps, eps_is_default=False)
