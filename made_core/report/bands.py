"""Bands of eps: what each eps removes that the one before it keeps. The sweep and the review show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from made_core.corpus.corpus import Corpus, Gids
from made_core.dedup.inputs import ResolveInputs
from made_core.errors import UserError
from made_core.output.decision_tables import similarities
from made_core.reasons import KEPT, NEAR_DUPLICATE
from made_core.report import examples
from made_core.report.report import THUMBNAIL, Example

PAIRS = 24  # shown of each band
STEPS = 8  # without given eps


@dataclass(frozen=True)
class Band:
    """The result of one eps for the run's own samples, and what it removes in addition."""

    eps: float
    samples: int
    kept: int
    near_duplicates: int
    removed: Gids  # near-duplicates at this eps, not at the previous one; ascending
    representatives: Gids  # the kept sample that represents each of them at this eps


def every(eps: Sequence[float], eps_max: float) -> list[float]:
    """The eps to try, ascending without repetitions; without any, STEPS evenly spaced up to `eps_max`.

    Raises:
        UserError: an eps is not above 0 and up to `eps_max`: other pairs are not stored.
    """
    for value in eps:
        if not 0 < value <= eps_max + 1e-12:
            raise UserError(
                f"eps is {value:g}, allowed: above 0, up to the run's eps_max, {eps_max:g}; for a larger "
                "one, run made curate with --set dedup.eps_max=..., another --output and the same --store"
            )
    return sorted(set(eps)) or [round(eps_max * n / STEPS, 12) for n in range(1, STEPS + 1)]


def of(corpus: Corpus, inputs: ResolveInputs, every_eps: Sequence[float]) -> Iterator[Band]:
    """The band of each eps, which must ascend. Embeddings, clusters and stored pairs are reused."""
    new = slice(corpus.begin, None)
    before = np.zeros(corpus.samples - corpus.begin, bool)
    for eps in every_eps:
        decided = inputs.decisions(eps)
        reason = decided.reason[new]
        near = reason == NEAR_DUPLICATE.code
        removed = np.flatnonzero(near & ~before) + corpus.begin
        yield Band(
            eps, len(reason), int((reason == KEPT).sum()), int(near.sum()),
            removed, decided.representative[removed],
        )  # fmt: skip
        before = near


def pairs(
    corpus: Corpus, inputs: ResolveInputs, band: Band, number: int = PAIRS, side: int = THUMBNAIL
) -> tuple[tuple[Example, Example], ...]:
    """(kept, removed) of at most `number` samples of a band, the least similar first.

    They are drawn at random, seeded: the share of wrong pairs among them is that of the whole band.

    Args:
        side: pixels: the longer side of the thumbnails.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    removed = examples.drawn(band.removed, number)
    representatives = band.representatives[np.searchsorted(band.removed, removed)]
    canonical = inputs.identities.canonical
    value = similarities(corpus, canonical[removed], canonical[representatives])
    return tuple(examples.beside(corpus, removed, representatives, value, side))
