"""All that resolve decides from, read once: then each eps up to eps_max is decided quickly."""

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
from made_core.dedup import near_pairs, order
from made_core.dedup.decide import Decisions, decide, read_decisions
from made_core.dedup.metadata_scan import MetadataScan, scan
from made_core.recipe import Recipe
from made_core.stages import AssignOutput, IdentifyOutput, ResolveOutput
from made_core.types import FileRef


@dataclass(frozen=True)
class ResolveFiles:
    """The files of a corpus that resolve reads."""

    identities: IdentifyOutput
    batches: tuple[AssignOutput, ...]
    pairs: tuple[FileRef, ...]
    crowded: tuple[int, ...]  # clusters whose pairs are not among these
    earlier: ResolveOutput | None = None  # decisions of the corpus that this one extends


@dataclass(frozen=True)
class ResolveInputs:
    """Arrays over all samples, by gid, and pairs of them."""

    recipe: Recipe
    identities: Identities
    scan: MetadataScan
    values: npt.NDArray[Any]  # the keep rule's, lowest first
    cluster: npt.NDArray[np.int32]  # home; -1: unreadable
    pairs: near_pairs.Pairs
    crowded: Sequence[cluster_rows.Cluster]
    earlier: Decisions | None  # of the first samples: those stay as they are

    def decisions(self, eps: float) -> Decisions:
        """Who stays at `eps`, which is not above the eps_max of the pairs."""
        return decide(
            self.identities, self.scan.dropped, self.values, self.cluster, self.pairs,
            self.recipe.dedup, eps, self.crowded, self.scan.placeholder, self.earlier,
        )  # fmt: skip


def read(corpus: Corpus, files: ResolveFiles, recipe: Recipe) -> ResolveInputs:
    """The inputs of a corpus; crowded clusters' rows are read as they are touched.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        RecipeError: the keep rule reads a field that no sample has.
    """
    identities = identity.read(files.identities)
    crowds: list[cluster_rows.Cluster] = []
    for c in files.crowded:  # all batches' files are open for one cluster at a time
        with cluster_rows.gathered(files.batches, c, c + 1) as clusters:
            crowds += clusters
    cluster, distance = cluster_rows.homes(files.batches, identities.canonical)
    found = scan(corpus, identities.canonical, recipe)
    by_place = order.of_place(recipe.dedup, distance, identities.uids)
    return ResolveInputs(
        recipe,
        identities,
        found,
        found.values if by_place is None else by_place,
        cluster,
        near_pairs.read(files.pairs),
        crowds,
        read_decisions(files.earlier) if files.earlier else None,
    )
