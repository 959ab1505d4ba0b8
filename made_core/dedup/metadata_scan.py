"""The metadata scan: filters, values of the keep rule and placeholders, from the metadata of all samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core import filters
from made_core.corpus import clip_scores, tables
from made_core.corpus.corpus import Corpus, Gids
from made_core.dedup import order
from made_core.errors import RecipeError
from made_core.reasons import KEPT, PLACEHOLDER, Codes
from made_core.recipe import Recipe

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MetadataScan:
    """Arrays over all samples, by gid."""

    dropped: Codes  # reason of the first filter that each sample fails, or KEPT
    values: npt.NDArray[np.float64]  # of a keep rule that reads metadata, the lowest first; else 0
    placeholder: Flags  # whether the sample shows a placeholder


def scan(corpus: Corpus, canonical: Gids, recipe: Recipe) -> MetadataScan:
    """Reads the metadata of all shards once. `canonical`: (n,) the gid of each sample's canonical sample.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        RecipeError: the keep rule or a filter reads a number that no sample has, or a table that does
            not exist.
    """
    extra = order.columns(recipe.dedup)
    wanted = list(dict.fromkeys((*filters.columns(recipe.filters), "caption", *extra)))
    least = recipe.dedup.placeholder_captions
    common = _common(canonical, least) if least else np.zeros(len(canonical), bool)
    codes, values, captions = [np.zeros(0, np.int8)], [np.zeros(0)], [np.zeros((0, 2), np.int64)]
    scored = clip_scores.COLUMN not in wanted
    for part in corpus.parts:
        table = tables.read(part, wanted)
        codes.append(filters.apply(table, recipe.filters))
        scored = scored or table[clip_scores.COLUMN].null_count < len(table)
        fields = {name: table[name].to_pylist() for name in extra}
        values.append(order.of_metadata(recipe.dedup, fields, part.samples))
        rows = np.flatnonzero(common[part.start : part.stop])
        captions.append(_captions(table["caption"], rows, canonical[part.start + rows]))
    dropped, value = np.concatenate(codes), np.concatenate(values)
    if not scored:
        reader = "dedup.keep" if clip_scores.COLUMN in extra else "filters.min_clip_score"
        raise RecipeError(
            f"{reader} reads CLIP scores, but captions are not embedded (encoder.captions) and no "
            f"sample's json has a number in {', '.join(clip_scores.FIELDS)}"
        )
    if recipe.dedup.keep_rule == "column" and len(value) and np.isnan(value).all():
        raise RecipeError(
            f"dedup.keep is column, but no sample's json has a number in {recipe.dedup.keep_column}"
        )
    placeholder = common & np.isin(canonical, _many(np.concatenate(captions), least or 0))
    if recipe.dedup.placeholders == "drop":
        dropped[placeholder & (dropped == KEPT)] = PLACEHOLDER.code
    return MetadataScan(dropped, value, placeholder)


def _common(canonical: Gids, least: int) -> Flags:
    """(n,) whether at least `least` samples have the same image: only these can be placeholders."""
    sizes = np.bincount(canonical[canonical >= 0], minlength=len(canonical))
    result: Flags = (canonical >= 0) & (sizes[canonical] >= least)
    return result


def _captions(column: pa.ChunkedArray, rows: Gids, canonical: Gids) -> Gids:
    """(m, 2) canonical gid and 64-bit hash of the captions of `rows`; rows without one are left out."""
    found: list[tuple[int, int]] = []
    captions: Sequence[Any] = column.take(pa.array(rows)).to_pylist() if len(rows) else []
    for caption, gid in zip(captions, canonical.tolist(), strict=True):
        if caption is not None:
            digest = hashlib.blake2b(" ".join(caption.split()).encode(), digest_size=8).digest()
            found.append((gid, int.from_bytes(digest, "little", signed=True)))
    return np.array(found, np.int64).reshape(-1, 2)


def _many(captions: Gids, least: int) -> Gids:
    """The canonical gids with at least `least` different captions. `captions`: from `_captions`."""
    gids, counts = np.unique(np.unique(captions, axis=0)[:, 0], return_counts=True)
    return gids[counts >= least]
