"""The last block of a transformer, computed only at the position that becomes the row.

After the last block, open_clip takes one position of each sequence: the class token of an image, the last
token of a caption. The block's queries, output and MLP at all other positions change nothing: 10 of the 12
parts of a block's work, 7 % of a tower of 12 layers. Keys and values are computed everywhere, so the row is
the same but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

VERSION = 1  # of the arithmetic; part of the keys


class LastBlock:
    """Replaces the forward pass of a transformer's last block."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.positions: Tensor | None = None  # (n,) int64 of the next batch; None: 0, the class token
        block.forward = self.forward

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(n, length, width): the block's result at the position of each sequence, at every position.

        Args:
            x: (n, length, width).
            attn_mask: (length, length), added to the scores; None: every position sees all others.
        """
        block, rows = self.block, torch.arange(len(x), device=x.device)
        at = torch.zeros_like(rows) if self.positions is None else self.positions
        mask = None
        if attn_mask is not None:
            mask = attn_mask[at].repeat_interleave(block.attn.num_heads, dim=0).unsqueeze(1)
        normed = block.ln_1(x)
        query = normed[rows, at].unsqueeze(1)
        found: Tensor = x[rows, at].unsqueeze(1) + block.ls_1(block.attention(query, normed, normed, mask))
        found = found + block.ls_2(block.mlp(block.ln_2(found)))
        return found.expand(-1, x.shape[1], -1)


def of_images(visual: Any) -> LastBlock | None:
    """Shortens an image tower whose row is its class token; None: it is another tower, left as it is."""
    from open_clip.transformer import VisionTransformer

    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
        return None
    return _of(visual.transformer)


def of_captions(tower: Any) -> LastBlock | None:
    """Shortens a causal text tower, whose `positions` the caller sets; None: left as it is."""
    return None if getattr(tower, "use_pad_mask", False) else _of(tower.transformer)


def _of(transformer: Any) -> LastBlock | None:
    from open_clip.transformer import ResidualAttentionBlock

    last = transformer.resblocks[-1]
    if type(last) is not ResidualAttentionBlock or not transformer.batch_first:
        return None
    return LastBlock(last)
