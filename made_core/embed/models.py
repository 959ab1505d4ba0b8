"""Checks open_clip models and weights without importing torch, which takes up to ten seconds."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from made_core import recipe
from made_core.errors import EncoderError
from made_core.imports import without
from made_core.io.paths import is_checkpoint

TOKENS = 49_408  # of open_clip's own tokenizer
REQUIRED = {"embed_dim", "vision_cfg", "text_cfg"}  # required fields of a model config


def check(section: recipe.Encoder) -> None:
    """Checks that a worker will find the encoder; weights are neither read nor downloaded.

    Raises:
        EncoderError: as `config_of`, and captions shall be embedded but cannot.
    """
    if section.model not in recipe.BUILTIN_ENCODERS:
        embeds_captions(section)


def embeds_captions(section: recipe.Encoder) -> bool:
    """Whether captions are embedded by a model that is not built in.

    Raises:
        EncoderError: as `config_of`, or they shall be and cannot.
    """
    lack = no_captions(config_of(section))
    if section.captions == "embed" and lack is not None:
        raise EncoderError(f"encoder.captions is embed, but {section.model}: {lack}; allowed: auto, skip")
    return section.captions != "skip" and lack is None


def no_captions(config: dict[str, Any]) -> str | None:
    """Why captions cannot be embedded by the model with this config; None: they can."""
    text = config.get("text_cfg", {})
    tokenizer = text.get("hf_tokenizer_name")
    if tokenizer or text.get("hf_model_name"):
        if importlib.util.find_spec("transformers") is None:
            named = tokenizer or text["hf_model_name"]
            return f"its text tower or tokenizer ({named}) needs the package transformers"
    elif (known := text.get("vocab_size", TOKENS)) < TOKENS:
        return f"its text tower knows {known:,} tokens, open_clip's tokenizer has {TOKENS:,}"
    return None


def config_of(section: recipe.Encoder) -> dict[str, Any]:
    """open_clip's config of a model that is not built in.

    Raises:
        EncoderError: unknown model or tag, a missing file, a config that open_clip cannot use, or a
            patch size that does not divide the image size.
    """
    if section.model.startswith(("hf-hub:", "local-dir:")):  # open_clip would ignore `pretrained`
        raise EncoderError(
            f"encoder.model: {section.model}: expected a model name such as ViT-B-32; "
            "name its weights in encoder.pretrained"
        )
    config = _own(section) if section.config is not None else None
    pretrained = section.pretrained or ""
    if is_checkpoint(pretrained) and not Path(pretrained).expanduser().is_file():
        raise EncoderError(f"encoder.pretrained: no such file: {pretrained}")
    config = config or config_of_name(section.model)
    if not Path(weights(section)).is_file():
        known = tags().list_pretrained_tags_by_model(section.model)
        if tags().get_pretrained_cfg(section.model, pretrained) == {}:
            raise EncoderError(
                f"encoder.pretrained: {section.model} has no tag {pretrained}, and there is no such file; "
                f"its tags: {', '.join(known) or 'none'}"
            )
    vision = config.get("vision_cfg", {})
    size, patch = vision.get("image_size"), vision.get("patch_size")
    if isinstance(size, int) and isinstance(patch, int) and size % patch:
        raise EncoderError(
            f"{section.config or section.model}: patch_size {patch} does not divide image_size {size}; "
            f"allowed: multiples of {patch}, such as {-(-size // patch) * patch}"
        )
    return config


def weights(section: recipe.Encoder) -> str:
    """`pretrained`: a tag, or a path with its tilde expanded."""
    pretrained = section.pretrained or ""
    return str(Path(pretrained).expanduser()) if pretrained.startswith("~") else pretrained


def _own(section: recipe.Encoder) -> dict[str, Any]:
    """The config in the user's file. Checked first, because open_clip would keep an invalid one loaded."""
    path = Path(section.config or "").expanduser()
    if not path.is_file():
        raise EncoderError(f"encoder.config: no such file: {path}")
    if path.stem != section.model:
        raise EncoderError(
            f"encoder.config defines model {path.stem}, but encoder.model is {section.model}; "
            "they must be equal"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"encoder.config: {path} is not valid JSON: {error}") from None
    if path.suffix != ".json" or not isinstance(fields, dict) or not fields.keys() >= REQUIRED:
        raise EncoderError(
            f"encoder.config: {path} is not an open_clip model config: "
            f"a .json with {', '.join(sorted(REQUIRED))}"
        )
    return fields


def names() -> list[str]:
    """The names of open_clip's own models, sorted."""
    return sorted(_configs())


def _configs() -> dict[str, Path]:
    return {path.stem: path for path in (_folder() / "model_configs").glob("*.json")}


def config_of_name(model: str) -> dict[str, Any]:
    """The config of one of open_clip's own models. Raises EncoderError, with names that are close."""
    known = _configs()
    if model not in known:
        lower = {name.lower(): name for name in sorted(known)}
        near = [lower[n] for n in difflib.get_close_matches(model.lower(), lower, n=3, cutoff=0.4)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise EncoderError(f"encoder.model: open_clip has no model {model}{hint}")
    config: dict[str, Any] = json.loads(known[model].read_text(encoding="utf-8"))
    return config


def _folder() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError("open_clip is not installed: pip install open_clip_torch, or model: perceptual")
    return Path(spec.submodule_search_locations[0])


@cache
def tags() -> Any:
    """open_clip's module of pretrained tags, loaded on its own: importing the package imports torch."""
    name = "_made_open_clip"
    if "open_clip.pretrained" not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(_folder())]
        sys.modules[name] = package
        # It needs safetensors.torch only to download. Versions that need more are imported as a whole.
        with without("safetensors.torch"), suppress(ImportError):
            return importlib.import_module(f"{name}.pretrained")
    return importlib.import_module("open_clip.pretrained")
