"""A tower whose last block is computed at one position gives open_clip's rows."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer

from made_core.embed import last_block

SIZE, LENGTH = 32, 16


def tower(**changes: Any) -> VisionTransformer:
    """A small image tower with random weights."""
    torch.manual_seed(0)
    fields = {"image_size": SIZE, "patch_size": 8, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 2.0}
    return VisionTransformer(**(fields | {"output_dim": 16} | changes)).eval()


def looked_at(block: Any) -> list[int]:
    """The positions that the block's MLP computes, filled by forward passes."""
    found: list[int] = []
    block.mlp.register_forward_hook(lambda _, inputs, __: found.append(inputs[0].shape[1]))
    return found


@pytest.mark.parametrize(
    "changes", [{}, {"final_ln_after_pool": True}, {"ls_init_value": 0.5}, {"layers": 1}, {"no_ln_pre": True}]
)
def test_images(changes: dict[str, Any]) -> None:
    model, images = tower(**changes), torch.randn(5, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model(images)
        assert last_block.of_images(model) is not None
        positions = looked_at(model.transformer.resblocks[-1])
        found = model(images)
    assert (found - expected).abs().max() < 1e-5
    assert positions == [1]


@pytest.mark.parametrize(
    "changes", [{"pool_type": "avg"}, {"attentional_pool": True}, {"block_type": "custom"}]
)
def test_other_image_towers_are_left_as_they_are(changes: dict[str, Any]) -> None:
    model, images = tower(**changes), torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model(images)
        assert last_block.of_images(model) is None
        assert torch.equal(model(images), expected)


def test_the_weights_keep_their_names() -> None:
    model = tower()
    before = list(model.state_dict())
    last_block.of_images(model)
    assert list(model.state_dict()) == before


def test_captions_at_their_own_positions() -> None:
    torch.manual_seed(0)
    model = open_clip.transformer.TextTransformer(
        context_length=LENGTH, vocab_size=64, width=32, heads=4, layers=2, output_dim=16
    ).eval()
    tokens = torch.randint(1, 60, (6, LENGTH))
    ends = torch.tensor([3, 15, 0, 7, 9, 1])
    tokens[torch.arange(6), ends] = 63
    with torch.inference_mode():
        expected = model(tokens)
        last = last_block.of_captions(model)
        assert last is not None
        last.positions = ends
        positions = looked_at(model.transformer.resblocks[-1])
        found = model(tokens)
    assert (found - expected).abs().max() < 1e-5
    assert positions == [1]
