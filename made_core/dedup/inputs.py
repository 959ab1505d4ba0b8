"""All that decides who stays, gathered once: then any eps that the stored pairs reach is quickly decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core.cluster import cluster_rows
from made_core.corpus import identity
from made_core.corpus.corpus import Corpus
from made_core.corpus.identity import Identities
from made_core.dedup import decide as decisions
from made_core.dedup import near_pairs, order
from made_core.dedup.decide import Decisions
from made_core.dedup.metadata_scan import MetadataScan, scan
from made_core.recipe import Recipe
from made_core.types import FileRef


@dataclass(frozen=True)
class ResolveFiles:
    """Where the evidence of a corpus lies."""

    catalog: tuple[FileRef, ...]
    batches: tuple[cluster_rows.Batch, ...]
    pairs: tuple[FileRef, ...]
    dense: tuple[int, ...]  # clusters whose pairs are not among them
    earlier: tuple[FileRef, ...] = ()  # decisions of the corpus that this one extends


@dataclass(frozen=True)
class ResolveInputs:
    """Arrays over all samples, by gid, and pairs of them."""

    recipe: Recipe
    catalog: Identities
    scan: MetadataScan
    values: npt.NDArray[Any]  # the keep rule's, lowest first
    cluster: npt.NDArray[np.int32]  # home; -1: unreadable
    pairs: near_pairs.Pairs
    dense: Sequence[cluster_rows.Cluster]
    earlier: Decisions | None  # of the first samples: those stand

    def decide(self, eps: float) -> Decisions:
        """Who stays at `eps`, which is not above the search's eps_max."""
        return decisions.decide(
            self.catalog, self.scan.dropped, self.values, self.cluster, self.pairs,
            self.recipe.dedup, eps, self.dense, self.scan.placeholder, self.earlier,
        )  # fmt: skip


def opened(corpus: Corpus, sources: ResolveFiles, recipe: Recipe) -> ResolveInputs:
    """The evidence of a corpus; crowded clusters' rows are read as they are touched.

    Raises:
        DamagedFile: a stored file is gone or not what was written.
        RecipeError: the keep rule reads a field that no sample has.
    """
    catalog = identity.read(sources.catalog)
    crowds: list[cluster_rows.Cluster] = []
    for c in sources.dense:  # all batches' files are open for one cluster at a time
        with cluster_rows.gathered(sources.batches, c, c + 1) as clusters:
            crowds += clusters
    cluster, distance = cluster_rows.homes(sources.batches, catalog.first)
    found = scan(corpus, catalog.first, recipe)
    by_place = order.of_place(recipe.dedup, distance, catalog.uids)
    return ResolveInputs(
        recipe,
        catalog,
        found,
        found.values if by_place is None else by_place,
        cluster,
        near_pairs.read(sources.pairs),
        crowds,
        decisions.read(sources.earlier) if sources.earlier else None,
    )
