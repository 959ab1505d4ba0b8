"""The metadata scan: filters, values of the keep rule and placeholders, from the metadata of all samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core import filters
from made_core.corpus import clip_scores, tables
from made_core.corpus.corpus import Corpus, Gids, Part
from made_core.dedup import order
from made_core.errors import RecipeError
from made_core.io.arrays import READERS
from made_core.reasons import KEPT, PLACEHOLDER, Codes
from made_core.recipe import Recipe

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MetadataScan:
    """Arrays over all samples, by gid."""

    dropped: Codes  # reason of the first filter that each sample fails, or KEPT
    values: npt.NDArray[np.float64]  # of a keep rule that reads metadata, the lowest first; else 0
    placeholder: Flags  # whether the sample shows a placeholder


@dataclass(frozen=True)
class _Facts:
    """Of one part, by row."""

    dropped: Codes
    values: npt.NDArray[np.float64]
    captions: Gids  # (m, 2), of `_captions`
    scored: bool  # whether CLIP scores are read and a sample has one


def scan(corpus: Corpus, canonical: Gids, recipe: Recipe) -> MetadataScan:
    """Reads the metadata of all shards once. `canonical`: (n,) the gid of each sample's canonical sample.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        RecipeError: the keep rule or a filter reads a number that no sample has, or a table that does
            not exist.
    """
    extra = order.columns(recipe.dedup)
    wanted = list(dict.fromkeys((*filters.columns(recipe.filters), *extra)))
    least = recipe.dedup.placeholder_captions
    common = _common(canonical, least) if least else np.zeros(len(canonical), bool)

    def of_part(part: Part) -> _Facts:
        rows = np.flatnonzero(common[part.start : part.stop])
        table = tables.read(part, wanted if not len(rows) or "caption" in wanted else [*wanted, "caption"])
        captions = np.zeros((0, 2), np.int64)
        if len(rows):
            captions = _captions(table["caption"], rows, canonical[part.start + rows])
        fields = {name: table[name].to_pylist() for name in extra}
        return _Facts(
            filters.apply(table, recipe.filters),
            order.of_metadata(recipe.dedup, fields, part.samples),
            captions,
            clip_scores.COLUMN in wanted and _scored(table),
        )

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(of_part, corpus.parts))
    dropped = np.concatenate([np.zeros(0, np.int8), *(f.dropped for f in found)])
    value = np.concatenate([np.zeros(0), *(f.values for f in found)])
    captions = np.concatenate([np.zeros((0, 2), np.int64), *(f.captions for f in found)])
    if clip_scores.COLUMN in wanted and not any(f.scored for f in found):
        raise _no_scores(recipe)
    if recipe.dedup.keep_rule == "column" and len(value) and np.isnan(value).all():
        raise _no_column(recipe)
    placeholder = common & np.isin(canonical, _many(captions, least or 0))
    if recipe.dedup.placeholders == "drop":
        dropped[placeholder & (dropped == KEPT)] = PLACEHOLDER.code
    return MetadataScan(dropped, value, placeholder)


def check_numbers(corpus: Corpus, recipe: Recipe) -> None:
    """Checks that a sample has a number that the keep rule or a filter reads, before anything is computed.

    Reads the metadata of as few shards as possible: none if the recipe reads no such number.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        RecipeError: as `scan`: no sample has one.
    """
    dedup = recipe.dedup
    score = clip_scores.COLUMN
    reads_scores = score in order.columns(dedup) or score in filters.columns(recipe.filters)
    if reads_scores and not _any(corpus, lambda part: _scored(tables.read(part, [score]))):
        raise _no_scores(recipe)

    def has_value(part: Part) -> bool:
        fields = {"json": tables.read(part, ["json"])["json"].to_pylist()}
        return not np.isnan(order.of_metadata(dedup, fields, part.samples)).all()

    if dedup.keep_rule == "column" and not _any(corpus, has_value):
        raise _no_column(recipe)


def _any(corpus: Corpus, has: Callable[[Part], bool]) -> bool:
    """Whether any part has something. The first one, which usually has, is read alone."""
    parts = corpus.parts
    with ThreadPoolExecutor(READERS) as pool:
        later = (parts[a : a + READERS] for a in range(1, len(parts), READERS))
        return any(any(pool.map(has, some)) for some in (parts[:1], *later))


def _scored(table: pa.Table) -> bool:
    return bool(table[clip_scores.COLUMN].null_count < len(table))


def _no_scores(recipe: Recipe) -> RecipeError:
    kept = clip_scores.COLUMN in order.columns(recipe.dedup)
    reader = "dedup.keep" if kept else "filters.min_clip_score"
    return RecipeError(
        f"{reader} reads CLIP scores, but captions are not embedded (encoder.captions) and no "
        f"sample's json has a number in {', '.join(clip_scores.FIELDS)}"
    )


def _no_column(recipe: Recipe) -> RecipeError:
    return RecipeError(
        f"dedup.keep is column, but no sample's json has a number in {recipe.dedup.keep_column}"
    )


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
