"""The text tower of an open_clip model: captions -> unit rows, comparable with those of its image tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from made_core import recipe
from made_core.embed import last_block
from made_core.errors import EncoderError

VERSION = 1  # of the rows; part of the key. Raise it when their meaning changes
LONGEST = 20_000  # characters of a caption that are tokenised; a context has at most a few hundred tokens
WORDS = 1 << 16  # that open_clip's tokenizer keeps, about 50 MB of a language without spaces
Tokens = Tensor  # (n, context) int64


@dataclass(frozen=True)
class TextTower:
    """A loaded text tower."""

    key: str  # 16 hex digits over weights, tokenizer, device and precision
    batch_size: int  # captions per forward pass
    tokenize: Callable[[list[str]], Tokens]
    lengths: Callable[[Tokens], Tensor]  # -> (n,) tokens of each caption that its row depends on
    forward: Callable[[Tokens], Tensor]  # (n, length) -> (n, dim), any norm

    def encode(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, dim) float32 unit rows in input order; NaN where a row is zero or not finite.

        Captions of similar length share a batch, whose context is cut to the longest of them.
        """
        tokens = self.tokenize([caption[:LONGEST] for caption in captions])
        lengths = self.lengths(tokens)
        order = torch.argsort(lengths, stable=True)
        parts: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                some = order[start : start + self.batch_size]
                rows = self.forward(tokens[some, : int(lengths[some].max())]).float().cpu()
                parts.append(rows / rows.norm(dim=1, keepdim=True))
            result: npt.NDArray[np.float32] = torch.cat(parts)[torch.argsort(order)].numpy()
        result[~np.isfinite(result).all(axis=1)] = np.nan
        return result


def of(
    model: Any, section: recipe.Encoder, key: Callable[[dict[str, Tensor], Sequence[object]], str]
) -> TextTower:
    """The text tower of a loaded open_clip model, which is kept whole.

    Args:
        key: of its weights and further facts that the rows depend on.

    Raises:
        EncoderError: its tokenizer cannot be loaded.
    """
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(section.model)
    except Exception as error:  # of transformers, or of the network
        text = " ".join(str(error).split())[:200]
        raise EncoderError(
            f"{section.model}: its tokenizer cannot be loaded ({type(error).__name__}: {text}); "
            "encoder.captions: skip embeds images only"
        ) from None
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("visual.")}
    size = 4 * int(section.batch_size)  # a caption has fewer tokens than an image has patches
    whole = tokenizer([""]).shape[1]

    def plain(tokens: Tokens) -> Tensor:
        rows: Tensor = model.encode_text(tokens.to(section.device, non_blocking=True))
        return rows

    pooled = _pooled(model)
    facts = [type(tokenizer).__name__, whole, pooled is not None]
    tokenize = bounded(tokenizer)
    if pooled is None:
        return TextTower(
            key(weights, facts), size, tokenize, lambda t: torch.full((len(t),), t.shape[1]), plain
        )
    named = key(weights, [*facts, last_block.VERSION])
    return TextTower(named, size, tokenize, lambda t: pooled(t) + 1, _cut(model, section.device, pooled))


def bounded(tokenizer: Any) -> Callable[[list[str]], Tokens]:
    """The tokenizer with bounded memory: open_clip's own keeps all the words that it has seen.

    Where a language has no spaces, a word is all letters up to the next sign: most captions have new ones.
    """
    words = getattr(tokenizer, "cache", None)
    if not isinstance(words, dict):
        return cast("Callable[[list[str]], Tokens]", tokenizer)
    special = dict(words)  # of a new tokenizer

    def tokenize(captions: list[str]) -> Tokens:
        if len(words) > WORDS:
            words.clear()
            words.update(special)
        tokens: Tokens = tokenizer(captions)
        return tokens

    return tokenize


def _pooled(model: Any) -> Callable[[Tokens], Tensor] | None:
    """(n, context) tokens -> (n,) the position that becomes a caption's row, if no later one affects it.

    None: the tower looks at later positions, or its row is taken from another place.
    """
    from open_clip.transformer import TextTransformer

    tower = getattr(model, "text", model)
    eos: Any
    if tower is model:
        pool, causal, eos = getattr(model, "text_pool_type", None), True, getattr(model, "text_eos_id", None)
    elif isinstance(tower, TextTransformer):
        pool, causal, eos = tower.pool_type, tower.cls_emb is None, tower.eos_id
    else:
        return None
    if not causal or getattr(tower, "attn_mask", None) is None:
        return None
    if pool == "argmax":
        return lambda tokens: tokens.argmax(dim=-1)
    if pool == "eos":
        return lambda tokens: tokens.eq(eos).int().argmax(dim=-1)
    return None


class _Text(torch.nn.Module):
    """`encode_text` as a module's forward, which `functional_call` needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tokens) -> Tensor:
        rows: Tensor = self.model.encode_text(tokens)
        return rows


def _cut(model: Any, device: str, pooled: Callable[[Tokens], Tensor]) -> Callable[[Tokens], Tensor]:
    """A causal tower on a context as long as its tokens: four times as fast for usual captions."""
    tower = getattr(model, "text", model)
    last = last_block.of_captions(tower)
    prefix = "model." if tower is model else "model.text."
    positions, mask, text = tower.positional_embedding.detach(), tower.attn_mask, _Text(model)

    def forward(tokens: Tokens) -> Tensor:
        length = tokens.shape[1]
        shorter = {
            f"{prefix}positional_embedding": positions[:length],
            f"{prefix}attn_mask": mask[:length, :length],
        }
        on_device = tokens.to(device, non_blocking=True)
        if last is not None:
            last.positions = pooled(on_device)
        rows: Tensor = torch.func.functional_call(text, shorter, (on_device,))
        return rows

    return forward
