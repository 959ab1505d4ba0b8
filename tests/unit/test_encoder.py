"""Encoders report invalid settings, have a key for what they compute, and compute what open_clip does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from made_core import recipe
from made_core.embed import encoder, perceptual
from tests.support.encoders import images, part
from tests.support.factories import TINY, tiny_open_clip

pytestmark = pytest.mark.usefixtures("no_cache")


@pytest.mark.parametrize(
    ("given", "has_cuda", "settled"),
    [
        ({}, False, ("cpu", "fp32", 32)),
        ({"model": "ViT-B-32", "pretrained": "openai"}, False, ("cpu", "fp32", 8)),
        ({}, True, ("cuda", "bf16", 256)),
        ({"device": "cpu"}, True, ("cpu", "fp32", 32)),
        ({"precision": "fp16", "batch_size": 5}, True, ("cuda", "fp16", 5)),
        ({"precision": "bf16", "batch_size": 5}, False, ("cpu", "bf16", 5)),
    ],
)
def test_auto_is_resolved(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], has_cuda: bool, settled: tuple[str, str, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_cuda)
    found = encoder.resolve(recipe.Encoder(**given))
    assert (found.device, found.precision, found.batch_size) == settled
    assert encoder.resolve(found) == found


def test_key_depends_on_what_is_computed(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    key = encoder.load(part(tiny)).encoding.key
    shutil.copy(tiny[1], tmp_path / "moved.bin")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(tiny[0], moved / "tiny.json")
    assert encoder.load(part(tiny, pretrained=str(tmp_path / "moved.bin"))).encoding.key == key
    assert encoder.load(part(tiny, config=str(moved / "tiny.json"))).encoding.key == key
    others = [
        part(tiny, batch_size=5),
        part(tiny, precision="bf16"),
        part(tiny_open_clip(tmp_path / "seed", seed=1)),
        part(tiny_open_clip(tmp_path / "size", image_size=64)),
    ]
    keys = [encoder.load(other).encoding.key for other in others]
    assert len({key, *keys}) == 5
    assert len(key) == 16
    assert encoder.load(part(tiny)).encoding.key == key


def test_key_is_the_same_in_any_process(tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It contains no object address and no path."""
    seen: list[str] = []

    def spy(value: object) -> str:
        seen.append(json.dumps(value))
        return "0" * 16

    monkeypatch.setattr(encoder, "digest", spy)
    encoder.load(part(tiny))
    encoder.load(encoder.resolve(recipe.Encoder()))
    assert len(seen) == 2
    assert not any(" at 0x" in s or str(tiny[0].parent) in s for s in seen)


def test_encoding_describes_what_was_loaded(tiny: tuple[Path, Path]) -> None:
    found = encoder.load(part(tiny)).encoding
    assert (found.model, found.dim, found.image_size, found.device) == ("tiny", 16, 32, "cpu")
    assert (found.precision, found.batch_size) == ("fp32", 4)
    assert (found.eps, found.eps_is_default) == (encoder.CLIP_EPS, True)
    assert encoder.with_eps(found, None) == found
    assert encoder.with_eps(found, 0.2) == replace(found, eps=0.2, eps_is_default=False)


@pytest.mark.parametrize("vision", [{}, {"patch_dropout": 0.5}, {"output_tokens": True}])
def test_rows_equal_open_clips(tmp_path: Path, vision: dict[str, Any]) -> None:
    """Also for towers that return their tokens with the row."""
    config, checkpoint = tiny_open_clip(tmp_path, "same", **vision)
    loaded = encoder.load(part((config, checkpoint), model="same"))
    open_clip.add_model_config(config)
    model, _, transform = open_clip.create_model_and_transforms("same", pretrained=str(checkpoint))
    model.eval()
    batch = torch.stack([transform(Image.fromarray(i)) for i in images(4)])
    with torch.no_grad():
        rows = model.visual(batch)
        rows = rows[0] if isinstance(rows, tuple) else model.encode_image(batch)
        expected = torch.nn.functional.normalize(rows, dim=-1).numpy()
    found = loaded.encode([loaded.to_pixels(i) for i in images(4)])
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.9999  # pixels differ by at most 2 of 255
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_coca(tmp_path: Path) -> None:
    """Its image tower returns two values regardless of its config."""
    text = TINY["text_cfg"] | {"embed_cls": True, "output_tokens": True}
    more = {"multimodal_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1,
                               "mlp_ratio": 4}, "custom_text": True}  # fmt: skip
    vision = TINY["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config = TINY | {"vision_cfg": vision, "text_cfg": text} | more
    path = tmp_path / "coca.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    model, _, transform = open_clip.create_model_and_transforms("coca")
    model.eval()
    torch.save(model.state_dict(), tmp_path / "coca.pt")
    loaded = encoder.load(part((path, tmp_path / "coca.pt"), model="coca"))
    pixels = [loaded.to_pixels(i) for i in images(2)]
    with torch.no_grad():
        batch = torch.stack([transform(Image.fromarray(i)) for i in images(2)])
        expected = model.encode_image(batch, normalize=True)
    assert (loaded.encode(pixels) * expected.numpy()).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("fp16", 0.002)])
def test_lower_precision_is_close(tiny: tuple[Path, Path], precision: str, bound: float) -> None:
    fine = encoder.load(part(tiny))
    coarse = encoder.load(part(tiny, precision=precision))
    first, second = (e.encode([e.to_pixels(i) for i in images(4)]) for e in (fine, coarse))
    assert 0 < np.abs(first - second).max() < bound


@pytest.mark.parametrize("model", ["tiny", "perceptual", "mean-colour"])
def test_a_row_does_not_depend_on_its_batch(tiny: tuple[Path, Path], model: str) -> None:
    wanted = part(tiny) if model == "tiny" else recipe.Encoder(model=model, device="cpu", batch_size=4)
    loaded = encoder.load(encoder.resolve(wanted))
    pixels = [loaded.to_pixels(i) for i in images(6)]
    alone = loaded.encode(pixels[:1])[0]
    for others in ([1, 2, 3], [3], [4, 5], []):
        for place in range(len(others) + 1):
            batch = [pixels[o] for o in others]
            batch.insert(place, pixels[0])
            assert (loaded.encode(batch)[place] == alone).all(), (others, place)


def test_invalid_rows_are_nan(tiny: tuple[Path, Path]) -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0]])
    loaded = replace(encoder.load(part(tiny)), forward=lambda _: rows)
    found = loaded.encode([np.zeros((32, 32, 3), np.uint8)] * 4)
    assert np.allclose(found[0], [0.6, 0.8])
    assert np.isnan(found[1:]).all()


def test_loaded_once(tiny: tuple[Path, Path]) -> None:
    assert encoder.load(part(tiny)) is encoder.load(part(tiny))
    assert encoder.load(part(tiny)) is not encoder.load(part(tiny, batch_size=9))


def test_a_home_path(tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    key = encoder.load(part(tiny)).encoding.key
    monkeypatch.setenv("HOME", str(tiny[0].parent))
    home = part(tiny, pretrained=f"~/{tiny[1].name}", config=f"~/{tiny[0].name}")
    assert encoder.load(home).encoding.key == key


def test_built_in_encoders() -> None:
    first, second = (
        encoder.load(encoder.resolve(recipe.Encoder(model=m))) for m in ("perceptual", "mean-colour")
    )
    assert first.encoding.dim == 546
    assert first.encoding.eps == perceptual.DEFAULT_EPS
    assert first.encoding.image_size == perceptual.SIZE
    assert second.encoding.dim == 4
    assert first.encoding.key != second.encoding.key


def test_every_built_in_encoder_has_a_function() -> None:
    assert tuple(encoder.BUILTIN) == recipe.BUILTIN_ENCODERS
