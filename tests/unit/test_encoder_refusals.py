"""Encoders that cannot be loaded: one line that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from made_core import recipe
from made_core.embed import encoder
from made_core.errors import EncoderError, Transient, UserError
from tests.support.encoders import part
from tests.support.factories import tiny_open_clip

pytestmark = pytest.mark.usefixtures("no_cache")


def refusal(wanted: recipe.Encoder) -> str:
    """The error raised on loading."""
    with pytest.raises(EncoderError) as caught:
        encoder.load(wanted)
    assert isinstance(caught.value, UserError)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unknown_model_with_suggestions() -> None:
    text = refusal(recipe.Encoder(model="ViT-B32", pretrained="openai"))
    assert "no model ViT-B32" in text
    assert "ViT-B-32" in text


def test_unknown_tag_with_the_known_ones() -> None:
    text = refusal(recipe.Encoder(model="ViT-B-32", pretrained="openia"))
    assert "ViT-B-32 has no tag openia" in text
    assert "openai" in text
    assert "laion2b_s34b_b79k" in text


def test_a_model_without_tags(tiny: tuple[Path, Path]) -> None:
    assert "its tags: none" in refusal(part(tiny, pretrained="openai"))


@pytest.mark.parametrize("name", ["none.pt", "folder/none", "none.safetensors"])
def test_missing_checkpoint(tiny: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    assert f"no such file: {tmp_path / name}" in refusal(part(tiny, pretrained=str(tmp_path / name)))


def test_missing_config(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    assert "encoder.config: no such file" in refusal(part(tiny, config=str(tmp_path / "tiny.json")))


def test_config_of_another_name(tiny: tuple[Path, Path]) -> None:
    assert "config defines model tiny, but encoder.model is small" in refusal(part(tiny, model="small"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "is not an open_clip model config"),
        (b'{"embed_dim": 8}', "embed_dim, text_cfg, vision_cfg"),
    ],
)
def test_config_that_is_not_valid(
    tiny: tuple[Path, Path], tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "tiny.json"
    path.write_bytes(content)
    assert expected in refusal(part(tiny, config=str(path)))
    encoder.load(part(tiny))  # and open_clip has not registered it


@pytest.mark.parametrize(
    "content",
    [b"", b"no checkpoint", b"\x80\x02.", b"PK\x03\x04" + bytes(99)],
    ids=["empty", "text", "pickle", "zip"],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_not_a_checkpoint(
    tiny: tuple[Path, Path], tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(part(tiny, pretrained=str(path)))


def test_a_truncated_checkpoint(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(tiny[1].read_bytes()[:-5000])
    assert str(path) in refusal(part(tiny, pretrained=str(path)))


@pytest.mark.parametrize("held", [[], {}, {"state_dict": {}}, {"a": torch.zeros(3)}, 5], ids=str)
def test_a_checkpoint_of_something_else(tiny: tuple[Path, Path], tmp_path: Path, held: object) -> None:
    path = tmp_path / "weights.pt"
    torch.save(held, path)
    assert str(path) in refusal(part(tiny, pretrained=str(path)))


def test_a_checkpoint_of_another_model(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = tiny_open_clip(tmp_path, "other", width=64)
    text = refusal(part(tiny, pretrained=str(other)))
    assert "size mismatch" in text or "Error(s) in loading state_dict" in text


def test_image_size_that_is_no_multiple_of_the_patches(tmp_path: Path) -> None:
    odd = tiny_open_clip(tmp_path, "odd", image_size=40)
    text = refusal(part(odd, model="odd"))
    assert "patch_size 16 does not divide image_size 40; allowed: multiples of 16, such as 48" in text


@pytest.mark.parametrize("model", ["hf-hub:somebody/model", "local-dir:/somewhere"])
def test_schemas_that_ignore_the_weights(model: str, tiny: tuple[Path, Path]) -> None:
    assert "its weights in encoder.pretrained" in refusal(part(tiny, model=model, config=None))


def test_a_failed_download_can_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(Transient, match=r"cannot be downloaded.*made models fetch .*no route to the hub"):
        encoder.load(part((Path(), Path()), model="RN50", config=None, pretrained="openai"))


@pytest.mark.parametrize("model", ["perceptual", "mean-colour"])
def test_cuda_without_gpu(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EncoderError, match="device is cuda, but this worker sees no GPU; allowed: auto, cpu"):
        encoder.resolve(recipe.Encoder(model=model, device="cuda"))
