"""How images are prepared for weights that are a file: open_clip itself knows it of its tags only.

For a file, open_clip takes OpenAI's mean, deviation and crop, which SigLIP, CLIPA and others were not trained
with. Repositories of the Hugging Face hub say it in a file beside the weights; `made models fetch --folder`
writes one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from made_core import recipe
from made_core.embed import models
from made_core.errors import EncoderError, first_fault
from made_core.io.paths import PREPARED


class Preprocessing(BaseModel):
    """open_clip's preprocessing of images. None: its default, that of OpenAI's models."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None


class Config(BaseModel):
    """An open_clip_config.json, as far as it is read."""

    preprocess_cfg: Preprocessing = Preprocessing()


def of(section: recipe.Encoder) -> Preprocessing:
    """What the file beside the weights says; nothing for a tag, which open_clip knows, or without one.

    Raises:
        EncoderError: the file is not one of open_clip's.
    """
    path = _beside(section)
    if path is None or not path.is_file():
        return Preprocessing()
    try:
        return Config.model_validate_json(path.read_bytes()).preprocess_cfg
    except ValidationError as error:
        raise EncoderError(
            f"{path}, beside encoder.pretrained, is not a config of open_clip: {first_fault(error)}; "
            "correct it, or remove it"
        ) from None


def doubt(section: recipe.Encoder) -> str | None:
    """Why images may be prepared in another way than the weights were trained with; None: no reason.

    There is one where all of the model's tags differ from open_clip's default, as those of SigLIP do.
    """
    path = _beside(section)
    if path is None or path.is_file():
        return None
    tags = models.tags().list_pretrained_tags_by_model(section.model)
    if not tags or any(of_tag(section.model, tag) == _default() for tag in tags):
        return None
    return (
        f"encoder.pretrained is a file without {PREPARED} beside it, so images are prepared as for OpenAI's "
        f"weights, but not for {section.model}'s ({', '.join(tags)}): if it has such weights, name the tag, "
        f"or copy their {PREPARED} to {path.parent}"
    )


def of_tag(model: str, tag: str) -> Preprocessing:
    """The preprocessing of one of open_clip's tags."""
    return Preprocessing.model_validate(
        {**_default().model_dump(), **models.tags().get_pretrained_cfg(model, tag)}
    )


def put_beside(weights: Path, model: str, tag: str) -> None:
    """Writes the preprocessing of a tag beside its weights, unless their repository has done so."""
    path = weights.parent / PREPARED
    if not path.exists():
        path.write_text(Config(preprocess_cfg=of_tag(model, tag)).model_dump_json(indent=4), encoding="utf-8")


def _beside(section: recipe.Encoder) -> Path | None:
    """Where the preprocessing of weights in a file is looked for; None: they are a tag's."""
    weights = Path(models.weights(section))
    if models.tags().get_pretrained_cfg(section.model, section.pretrained or "") or not weights.is_file():
        return None
    return weights.parent / PREPARED


def _default() -> Preprocessing:
    tags = models.tags()
    return Preprocessing(
        mean=tags.OPENAI_DATASET_MEAN,
        std=tags.OPENAI_DATASET_STD,
        interpolation="bicubic",
        resize_mode="shortest",
    )
