"""Weights in a file are given images as they were trained on, where a file beside them says how."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from made_core import recipe
from made_core.embed import encoder, preprocessing
from made_core.errors import EncoderError
from tests.support.encoders import images, part

pytestmark = pytest.mark.usefixtures("no_cache")

SIGLIP = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@pytest.fixture
def repository(tiny: tuple[Path, Path], tmp_path: Path) -> Path:
    """The weights of a model and their open_clip_config.json, as of a repository of the Hugging Face hub."""
    config = {"model_cfg": json.loads(tiny[0].read_text()), "preprocess_cfg": SIGLIP | {"size": [3, 32, 32]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    shutil.copy(tiny[1], tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


def test_rows_equal_those_of_open_clip_for_the_folder(repository: Path, tiny: tuple[Path, Path]) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{repository}")
    wide = [np.tile(image, (1, 2, 1)) for image in images(4)]
    with torch.no_grad():
        batch = torch.stack([transform(Image.fromarray(image)) for image in wide])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    loaded = encoder.load(part(tiny, pretrained=str(repository / "open_clip_pytorch_model.bin")))
    found = loaded.encode([loaded.to_pixels(image) for image in wide])
    assert (found * expected).sum(axis=1).min() > 0.9999
    other = encoder.load(part(tiny))
    assert other.encoding.key != loaded.encoding.key
    without = other.encode([other.to_pixels(image) for image in wide])
    assert (without * expected).sum(axis=1).min() < 0.999, "the images tell the two apart"


def test_the_default_in_a_file_is_no_other_encoder(repository: Path, tiny: tuple[Path, Path]) -> None:
    """Its numbers are lists in the file; the key is that of the model without one."""
    default = preprocessing.of_tag("ViT-B-32", "openai").model_dump(mode="json")
    weights = str(repository / "open_clip_pytorch_model.bin")
    for config in ({"preprocess_cfg": default}, {}):
        (repository / "open_clip_config.json").write_text(json.dumps(config))
        encoder.load.cache_clear()
        assert (
            encoder.load(part(tiny, pretrained=weights)).encoding.key == encoder.load(part(tiny)).encoding.key
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "Invalid JSON"),
        (
            '{"preprocess_cfg": {"resize_mode": "crop"}}',
            "preprocess_cfg.resize_mode: Input should be 'shortest'",
        ),
        ('{"preprocess_cfg": {"mean": [0.5]}}', "preprocess_cfg.mean"),
    ],
)
def test_a_file_that_is_none_of_open_clips(
    repository: Path, tiny: tuple[Path, Path], content: str, said: str
) -> None:
    (repository / "open_clip_config.json").write_text(content)
    with pytest.raises(
        EncoderError, match=r"open_clip_config\.json, beside encoder\.pretrained, is not"
    ) as caught:
        encoder.load(part(tiny, pretrained=str(repository / "open_clip_pytorch_model.bin")))
    assert said in str(caught.value)


def test_doubt(repository: Path) -> None:
    """Only for a file of weights that no default of open_clip's suits, and only without a file beside it."""
    weights = str(repository / "open_clip_pytorch_model.bin")

    def doubt(model: str, pretrained: str = weights) -> str | None:
        return preprocessing.doubt(recipe.Encoder(model=model, pretrained=pretrained))

    assert doubt("ViT-B-16-SigLIP") is None
    (repository / "open_clip_config.json").unlink()
    assert "not for ViT-B-16-SigLIP's (webli)" in (doubt("ViT-B-16-SigLIP") or "")
    assert [doubt("ViT-B-32"), doubt("ViT-L-14"), doubt("tiny")] == [None] * 3
    assert doubt("ViT-B-16-SigLIP", "webli") is None


def test_every_tag_of_open_clip_is_understood() -> None:
    found = {preprocessing.of_tag(model, tag) for model, tag in open_clip.list_pretrained()}
    assert preprocessing.of_tag("ViT-B-16-SigLIP", "webli") == preprocessing.Preprocessing.model_validate(
        SIGLIP
    )
    assert len(found) > 3
