"""The inputs of resolve, read once, so that every eps up to eps_max is then decided quickly."""

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
from made_core.dedup import decisions, near_pairs, order
from made_core.dedup.decide import decide
from made_core.dedup.decisions import Decisions
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
    crowded: tuple[int, ...]  # clusters whose pairs are not in `pairs`
    earlier: ResolveOutput | None = None  # decisions of the corpus that this one extends


@dataclass(frozen=True)
class ResolveInputs:
    """Arrays over all samples, by gid, and near pairs of samples."""

    recipe: Recipe
    identities: Identities
    scan: MetadataScan
    values: npt.NDArray[Any]  # of the keep rule; the lowest comes first
    cluster: npt.NDArray[np.int32]  # home; -1: unreadable
    pairs: near_pairs.Pairs
    crowded: Sequence[cluster_rows.Cluster]
    earlier: Decisions | None  # on the first samples, which do not change

    def decisions(self, eps: float) -> Decisions:
        """The decisions at `eps`, which must not exceed the eps_max of the pairs."""
        return decide(
            self.identities, self.scan.dropped, self.values, self.cluster, self.pairs,
            self.recipe.dedup, eps, self.crowded, self.scan.placeholder, self.earlier,
        )  # fmt: skip


def read(corpus: Corpus, files: ResolveFiles, recipe: Recipe) -> ResolveInputs:
    """The inputs of a corpus; the rows of crowded clusters are memory-mapped.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        RecipeError: the keep rule reads a field that no sample has.
    """
    identities = identity.read(files.identities)
    crowded: list[cluster_rows.Cluster] = []
    for c in files.crowded:  # the files of all batches are open for one cluster at a time
        with cluster_rows.gathered(files.batches, c, c + 1) as clusters:
            crowded += clusters
    cluster, distance = cluster_rows.homes(files.batches, identities.canonical)
    scanned = scan(corpus, identities.canonical, recipe)
    values = order.values(recipe.dedup, scanned.values, distance, identities.uids)
    return ResolveInputs(
        recipe,
        identities,
        scanned,
        values,
        cluster,
        near_pairs.read(files.pairs),
        crowded,
        decisions.read(files.earlier) if files.earlier else None,
    )
