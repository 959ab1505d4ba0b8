"""Facts about open_clip's models, counted on models built from their configurations without weights."""

from __future__ import annotations

import fnmatch
import logging
import math
from dataclasses import dataclass
from typing import Any

from made_core.embed import models
from made_core.errors import EncoderError


@dataclass(frozen=True)
class ModelFacts:
    """A model of open_clip. None: its configuration does not say, as for towers of timm."""

    name: str
    image_size: int  # pixels: the side of the square that the model sees, the shorter one if it is not square
    patch: int | None  # pixels
    layers: int | None  # of the image tower
    width: int | None
    heads: int | None
    image_parameters: int
    parameters: int  # of both towers
    flops: int  # floating-point operations of one image; a multiplication and an addition are two
    dim: int  # length of a row


def names(patterns: tuple[str, ...] = ()) -> list[str]:
    """The models whose names match one of `patterns` (as in a shell), by default all.

    Raises:
        EncoderError: a pattern matches none.
    """
    known = models.names()
    found: list[str] = []
    for pattern in patterns or ("*",):
        matching = fnmatch.filter(known, pattern)
        if not matching:
            models.config_of_name(pattern)  # raises
        found += [name for name in matching if name not in found]
    return found


def facts(name: str) -> ModelFacts:
    """Counts parameters and operations of a model. Takes about a second; needs little memory.

    Raises:
        EncoderError: the model needs a library that is not installed, or cannot be built.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    logging.getLogger().addFilter(_about_weights)
    try:
        import open_clip

        with torch.device("meta"):
            model = open_clip.create_model(name, device="meta")
            visual = model.visual.eval()
            size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
            image = torch.empty(1, 3, *size)
        # With gradients: without them, torch's fused attention hides its operations from the counter.
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            visual(image)
    except Exception as error:
        raise EncoderError(f"{name} cannot be built: {' '.join(str(error).split())[:200]}") from None
    finally:
        logging.getLogger().removeFilter(_about_weights)
    config = models.config_of_name(name)
    vision: dict[str, Any] = config["vision_cfg"]
    is_vit = isinstance(vision.get("layers"), int)  # ResNets have a list; timm's models none
    width = vision.get("width", 768) if is_vit else None
    return ModelFacts(
        name=name,
        image_size=min(size),
        patch=vision.get("patch_size", 16) if is_vit else None,
        layers=vision["layers"] if is_vit else None,
        width=width,
        heads=width // vision.get("head_width", 64) if width is not None else None,
        image_parameters=_parameters(visual),
        parameters=_parameters(model),
        flops=counter.get_total_flops(),
        dim=config["embed_dim"],
    )


def _parameters(module: Any) -> int:
    return sum(math.prod(p.shape) for p in module.parameters())


def _about_weights(record: logging.LogRecord) -> bool:
    """open_clip warns that a model without weights has none."""
    return "pretrained weights" not in record.getMessage()
