"""The scan: what the metadata of all samples says of them: filters, the keep rule's value, placeholders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core import filters
from made_core.corpus import tables
from made_core.corpus.corpus import Corpus, Gids
from made_core.dedup import order
from made_core.errors import RecipeError
from made_core.reasons import KEPT, PLACEHOLDER, Codes
from made_core.recipe import Recipe

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MetadataScan:
    """Arrays over all samples, by gid."""

    dropped: Codes  # the first filter that each fails, KEPT without one
    values: npt.NDArray[np.float64]  # the keep rule's where it reads metadata, lowest first; else 0
    placeholder: Flags  # its image stands under many captions


def scan(corpus: Corpus, first: Gids, recipe: Recipe) -> MetadataScan:
    """Reads the metadata of all shards once. `first`: (n,) the gid of each sample's canonical image.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        RecipeError: the keep rule reads a field that no sample has, or a filter a table that is not there.
    """
    extra = order.columns(recipe.dedup)
    wanted = list(dict.fromkeys((*filters.columns(recipe.filters), "caption", *extra)))
    most = recipe.dedup.placeholder_captions
    common = _common(first, most) if most else np.zeros(len(first), bool)
    codes, values, seen = [np.zeros(0, np.int8)], [np.zeros(0)], [np.zeros((0, 2), np.int64)]
    for part in corpus.parts:
        table = tables.read(part, wanted)
        codes.append(filters.apply(table, recipe.filters))
        fields = {name: table[name].to_pylist() for name in extra}
        values.append(order.of_metadata(recipe.dedup, fields, part.samples))
        rows = np.flatnonzero(common[part.start : part.stop])
        seen.append(_captions(table["caption"], rows, first[part.start + rows]))
    dropped, value = np.concatenate(codes), np.concatenate(values)
    if extra and recipe.dedup.keep != "largest" and len(value) and np.isnan(value).all():
        names = recipe.dedup.keep_column or ", ".join(order.CLIP_SCORES)
        raise RecipeError(f"dedup.keep is {recipe.dedup.keep}, but no sample's json has a number in {names}")
    placeholder = common & np.isin(first, _many(np.concatenate(seen), most or 0))
    if recipe.dedup.placeholders == "drop":
        dropped[placeholder & (dropped == KEPT)] = PLACEHOLDER.code
    return MetadataScan(dropped, value, placeholder)


def _common(first: Gids, most: int) -> Flags:
    """(n,) whose class of equal images has `most` members: the only ones that may be placeholders."""
    sizes = np.bincount(first[first >= 0], minlength=len(first))
    result: Flags = (first >= 0) & (sizes[first] >= most)
    return result


def _captions(column: pa.ChunkedArray, rows: Gids, first: Gids) -> Gids:
    """(m, 2) class and 64-bit hash of the captions of some rows; those without one are left out."""
    found: list[tuple[int, int]] = []
    captions: Sequence[Any] = column.take(pa.array(rows)).to_pylist() if len(rows) else []
    for caption, gid in zip(captions, first.tolist(), strict=True):
        if caption is not None:
            digest = hashlib.blake2b(" ".join(caption.split()).encode(), digest_size=8).digest()
            found.append((gid, int.from_bytes(digest, "little", signed=True)))
    return np.array(found, np.int64).reshape(-1, 2)


def _many(seen: Gids, most: int) -> Gids:
    """The classes that stand under at least `most` different captions."""
    classes, counts = np.unique(np.unique(seen, axis=0)[:, 0], return_counts=True)
    return classes[counts >= most]
