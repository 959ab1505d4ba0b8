"""Decides every sample: filters and repeated uids, then exact copies, then near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from made_core.cluster.cluster_rows import Cluster
from made_core.corpus.corpus import Gids
from made_core.corpus.identity import Identities
from made_core.corpus.sorting import first_of_equal
from made_core.dedup import order, rules
from made_core.dedup.decisions import NO_SAMPLE, Decisions
from made_core.dedup.near_pairs import Pairs
from made_core.reasons import EXACT_COPY, KEPT, NEAR_DUPLICATE, PLACEHOLDER, REPEATED_UID, Codes
from made_core.recipe_dedup import Dedup

if TYPE_CHECKING:  # it imports torch, which a flow does not need
    from made_core.dedup.crowded import CrowdedCluster


def decide(
    identities: Identities,
    dropped: Codes,
    values: npt.NDArray[Any],
    cluster: npt.NDArray[np.int32],
    pairs: Pairs,
    dedup: Dedup,
    eps: float,
    crowded: Sequence[Cluster] = (),
    placeholder: npt.NDArray[np.bool_] | None = None,
    earlier: Decisions | None = None,
) -> Decisions:
    """The decisions of a corpus.

    Args:
        dropped: (n,) codes of the filters.
        values: (n,) values of the keep rule; the lowest comes first in the order.
        cluster: (n,) home cluster of each sample.
        pairs: near pairs of the images, in any order.
        dedup: its `rule` is used. eps: pairs with a similarity above 1 - eps count.
        crowded: clusters whose pairs are not in `pairs`.
        placeholder: (n,) flags of samples that show a placeholder; None: none do.
        earlier: decisions of an earlier run on the first m samples. They do not change, and the samples
            that it kept come first in the order.
    """
    n = len(dropped)
    reason = dropped.copy()
    original = _first_of_uid(identities.uids, identities.canonical >= 0)
    repeated = original != np.arange(n)
    reason[repeated] = REPEATED_UID.code
    before = 0
    if earlier is not None:
        before = len(earlier.reason)
        reason[:before], repeated[:before] = earlier.reason, False
    rank = order.ranks(values, identities.uids, before)
    eligible = np.flatnonzero(reason == KEPT)
    survivor = _survivors(identities.canonical, eligible, rank, n)

    is_node = np.zeros(n, bool)
    is_node[survivor[survivor >= 0]] = True
    nodes = np.flatnonzero(is_node)  # gids: one per image that still has an eligible sample
    node_of = np.full(n, NO_SAMPLE, np.int64)
    node_of[nodes] = np.arange(len(nodes))
    ends = [np.asarray(survivor[pairs[side]]) for side in ("i", "j")]
    use = (ends[0] >= 0) & (ends[1] >= 0)
    i, j = (node_of[end[use]] for end in ends)
    value, bound = pairs["similarity"][use], 1 - eps
    clusters = [_crowded(c, survivor, node_of) for c in crowded]
    pinned = nodes < before
    if dedup.rule == "cover":
        resolved = rules.cover(rank[nodes], i, j, value, bound, clusters, pinned)
    else:
        homes = cluster[nodes].astype(np.int64)
        resolved = rules.reference(rank[nodes], homes, i, j, value, bound, clusters, pinned)
    representative, similarity = np.full(n, NO_SAMPLE, np.int64), np.full(n, np.nan)
    if earlier is not None:
        representative[:before], similarity[:before] = earlier.representative, earlier.similarity
    representative[nodes], similarity[nodes] = nodes[resolved.representative], resolved.similarity
    reason[nodes[~resolved.kept]] = NEAR_DUPLICATE.code
    own = survivor[identities.canonical[eligible]]
    copies = eligible[own != eligible]
    reason[copies] = EXACT_COPY.code
    if placeholder is not None:
        reason[copies[placeholder[copies]]] = PLACEHOLDER.code

    def represent_like(some: Gids, others: Gids) -> None:
        """Samples are represented as others are, which have equal images if their canonical samples are."""
        representative[some] = representative[others]
        equal = identities.canonical[some] == identities.canonical[others]
        similarity[some] = np.where(
            equal, np.where(representative[others] == others, 1, similarity[others]), np.nan
        )

    represent_like(copies, survivor[identities.canonical[copies]])
    again = np.flatnonzero(repeated)
    represent_like(again, original[again])
    return Decisions(reason, representative, similarity)


def _crowded(cluster: Cluster, survivor: Gids, node_of: Gids) -> CrowdedCluster:
    """The rows of a crowded cluster whose images still have an eligible sample."""
    from made_core.dedup.crowded import CrowdedCluster

    survivors = survivor[cluster.members["gid"]]
    used = np.flatnonzero(survivors >= 0)
    at_home = cluster.members["probes"][used, 0] == cluster.id
    return CrowdedCluster(node_of[survivors[used]], at_home, cluster.rows[used])


def _first_of_uid(uids: npt.NDArray[np.bytes_], readable: npt.NDArray[np.bool_]) -> Gids:
    """(n,) the lowest gid of the readable samples with the same uid; an unreadable sample's own gid."""
    result = np.arange(len(uids))
    gids = np.flatnonzero(readable)
    result[gids] = gids[first_of_equal(uids[gids])]
    return result


def _survivors(canonical: Gids, eligible: Gids, rank: npt.NDArray[np.int64], n: int) -> Gids:
    """(n,) by the gid of a canonical sample: the eligible sample of its image with the lowest rank.

    NO_SAMPLE if none is eligible, and for other gids.
    """
    result = np.full(n, NO_SAMPLE, np.int64)
    in_order = np.empty(n, np.int64)
    in_order[rank] = np.arange(n)
    is_eligible = np.zeros(n, bool)
    is_eligible[eligible] = True
    backwards = in_order[::-1][is_eligible[in_order[::-1]]]
    result[canonical[backwards]] = backwards  # the lowest rank is written last
    return result
