"""All that decides who stays, gathered once: then any eps that the stored pairs reach is quickly decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core import catalog as catalogs
from made_core import decisions, groups, order
from made_core import pairs as near_pairs
from made_core.catalog import Catalog
from made_core.corpus import Corpus
from made_core.data import FileRef
from made_core.decisions import Decisions
from made_core.recipe import Recipe
from made_core.survey import Survey, survey


@dataclass(frozen=True)
class Sources:
    """Where the evidence of a corpus lies."""

    catalog: tuple[FileRef, ...]
    batches: tuple[groups.Batch, ...]
    pairs: tuple[FileRef, ...]
    dense: tuple[int, ...]  # clusters whose pairs are not among them
    earlier: tuple[FileRef, ...] = ()  # decisions of the corpus that this one extends


@dataclass(frozen=True)
class Evidence:
    """Arrays over all samples, by gid, and pairs of them."""

    recipe: Recipe
    catalog: Catalog
    survey: Survey
    values: npt.NDArray[Any]  # the keep rule's, lowest first
    cluster: npt.NDArray[np.int32]  # home; -1: unreadable
    pairs: near_pairs.Pairs
    dense: Sequence[groups.Cluster]
    earlier: Decisions | None  # of the first samples: those stand

    def decide(self, eps: float) -> Decisions:
        """Who stays at `eps`, which is not above the search's eps_max."""
        return decisions.decide(
            self.catalog, self.survey.dropped, self.values, self.cluster, self.pairs,
            self.recipe.dedup, eps, self.dense, self.survey.placeholder, self.earlier,
        )  # fmt: skip


def opened(corpus: Corpus, sources: Sources, recipe: Recipe) -> Evidence:
    """The evidence of a corpus; crowded clusters' rows are read as they are touched.

    Raises:
        DamagedFile: a stored file is gone or not what was written.
        RecipeError: the keep rule reads a field that no sample has.
    """
    catalog = catalogs.read(sources.catalog)
    crowds: list[groups.Cluster] = []
    for c in sources.dense:  # all batches' files are open for one cluster at a time
        with groups.gathered(sources.batches, c, c + 1) as clusters:
            crowds += clusters
    cluster, distance = groups.homes(sources.batches, catalog.first)
    found = survey(corpus, catalog.first, recipe)
    by_place = order.of_place(recipe.dedup, distance, catalog.uids)
    return Evidence(
        recipe,
        catalog,
        found,
        found.values if by_place is None else by_place,
        cluster,
        near_pairs.read(sources.pairs),
        crowds,
        decisions.read(sources.earlier) if sources.earlier else None,
    )
