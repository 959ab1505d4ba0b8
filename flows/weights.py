"""`made models fetch`: weights of open_clip models for nodes without internet."""

from __future__ import annotations

from pathlib import Path

from made_core.embed import models, preprocessing
from made_core.errors import EncoderError, UserError
from made_core.recipe import BUILTIN_ENCODERS, Encoder
from made_core.recipe_file import load


def fetch(recipe: str | None, model: str | None, pretrained: str | None, folder: Path | None) -> None:
    """Downloads weights and prints how workers find them.

    Args:
        recipe: file whose encoder is meant, unless `model` names one.
        folder: where they go; None: the cache of open_clip.

    Raises:
        UserError: no model is named, it is unknown or needs no weights, or they cannot be downloaded.
    """
    encoder = _encoder(recipe, model, pretrained)
    if encoder.model in BUILTIN_ENCODERS:
        print(f"{encoder.model} needs no weights")
        return
    models.check(encoder)
    tag = models.weights(encoder)
    if Path(tag).is_file():
        print(f"{tag} is a file already: nothing to download; all nodes must reach it")
        return
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    # Each in a folder of its own, as the file that says how images are prepared for them has a fixed name.
    own = folder.absolute() / f"{encoder.model}-{tag}" if folder else None
    try:
        path = download_pretrained(
            get_pretrained_cfg(encoder.model, tag), cache_dir=str(own) if own else None
        )
    except Exception as error:  # of urllib, requests or huggingface_hub
        raise EncoderError(
            f"the weights {tag} of {encoder.model} cannot be downloaded ({type(error).__name__}: {error}); "
            "does this host reach the internet, and is HTTPS_PROXY set where it is needed?"
        ) from None
    print(f"{encoder.model} {tag}: {path} ({Path(path).stat().st_size >> 20} MiB)")
    if own is None:
        print("workers find it by the same tag, with HF_HUB_OFFLINE=1 in the job if nodes have no internet")
    else:
        preprocessing.put_beside(Path(path), encoder.model, tag)
        print(f"name the file in the recipe: encoder.pretrained: {path}")


def _encoder(recipe: str | None, model: str | None, pretrained: str | None) -> Encoder:
    if recipe is None and model is None:
        raise UserError("name a model by --recipe, or by --model and --pretrained")
    given = {"encoder.model": model, "encoder.pretrained": pretrained}
    sets = [f"{name}={value}" for name, value in given.items() if value is not None]
    return load(recipe, {"sources": ["."], "output": "."}, sets).encoder  # a recipe needs not have these yet
