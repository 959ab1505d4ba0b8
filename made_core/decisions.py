"""Every sample's decision: filters and repeated uids, then exact copies, then near duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core import embeddings, order, resolve
from made_core.arrays import read_array
from made_core.catalog import Catalog
from made_core.corpus import Gids, Part
from made_core.data import Account, FileRef, Reason
from made_core.dense import Dense
from made_core.filters import KEPT, REASONS, Codes, code
from made_core.groups import Cluster
from made_core.pairs import Pairs
from made_core.recipe import Dedup

NOBODY = -1


@dataclass(frozen=True)
class Decisions:
    """Arrays over all samples, by gid."""

    reason: Codes  # KEPT, or an index into REASONS
    representative: Gids  # gid of the kept sample that stands for it; NOBODY for filtered samples


SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.string()),  # the input shard's id
        ("key", pa.string()),  # in the input shard
        ("row", pa.int32()),  # place in the input shard, 0 first
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # a Reason; null: kept
        (
            "represented_by",
            pa.string(),
        ),  # uid of a kept sample; null: kept, or represented by nobody
        ("similarity", pa.float64()),  # to that sample, of the stored rows; null without one
        ("cluster", pa.int32()),  # null: unreadable
        ("error", pa.string()),  # why it is unreadable
        ("output_shard", pa.string()),  # where a kept sample is in the output
        ("output_key", pa.string()),
    ]
)


def decide(
    catalog: Catalog,
    dropped: Codes,
    values: npt.NDArray[Any],
    cluster: npt.NDArray[np.int32],
    pairs: Pairs,
    dedup: Dedup,
    eps: float,
    dense: Sequence[Cluster] = (),
    placeholder: npt.NDArray[np.bool_] | None = None,
    earlier: Decisions | None = None,
) -> Decisions:
    """The decisions of a corpus.

    Args:
        dropped: (n,) codes of the filters. values: (n,) the keep rule's, lowest first.
        cluster: (n,) home of each sample. pairs: near pairs of the catalog's pictures, any order.
        dense: clusters whose pairs are not among them.
        placeholder: (n,) samples whose copies are named so; None: none.
        earlier: decisions of the first m samples, by an earlier run: they stand, and those that it
            kept come first in the order.
    """
    n = len(dropped)
    reason = dropped.copy()
    readable = catalog.first >= 0
    original = _first_of_uid(catalog.uids, readable)
    repeated = readable & (original != np.arange(n))
    reason[repeated] = code(Reason.REPEATED_UID)
    before = 0
    if earlier is not None:
        before = len(earlier.reason)
        reason[:before], repeated[:before] = earlier.reason, False
    rank = order.ranks(values, catalog.uids, before)
    eligible = np.flatnonzero(reason == KEPT)
    survivor = _survivors(catalog.first, eligible, rank, n)

    nodes = np.unique(survivor[survivor >= 0])  # gids, one per class that still has a member
    node_of = np.full(n, NOBODY, np.int64)
    node_of[nodes] = np.arange(len(nodes))
    ends = [np.asarray(survivor[pairs[side]]) for side in ("i", "j")]
    use = (ends[0] >= 0) & (ends[1] >= 0)
    i, j = (node_of[end[use]] for end in ends)
    similarity, bound = pairs["similarity"][use], 1 - eps
    crowds = [_crowd(c, survivor, node_of) for c in dense]
    stays = nodes < before
    if dedup.rule == "cover":
        resolved = resolve.cover(rank[nodes], i, j, similarity, bound, crowds, stays)
    else:
        homes = cluster[nodes].astype(np.int64)
        resolved = resolve.reference(rank[nodes], homes, i, j, similarity, bound, crowds, stays)
    representative = np.full(n, NOBODY, np.int64)
    if earlier is not None:
        representative[:before] = earlier.representative
    representative[nodes] = nodes[resolved.representative]
    reason[nodes[~resolved.kept]] = code(Reason.NEAR_DUPLICATE)
    own = survivor[catalog.first[eligible]]
    copies = eligible[own != eligible]
    reason[copies] = code(Reason.EXACT_COPY)
    if placeholder is not None:
        reason[copies[placeholder[copies]]] = code(Reason.PLACEHOLDER)
    representative[copies] = representative[survivor[catalog.first[copies]]]
    again = np.flatnonzero(repeated)
    representative[again] = representative[original[again]]
    return Decisions(reason, representative)


def read(refs: Sequence[FileRef]) -> Decisions:
    """The stored decisions, from the files of reasons and representatives. Raises DamagedFile."""
    return Decisions(read_array(refs[0]), read_array(refs[1]))


def _crowd(cluster: Cluster, survivor: Gids, node_of: Gids) -> Dense:
    """A dense cluster's rows whose pictures still have a member."""
    standing = survivor[cluster.members["gid"]]
    alive = np.flatnonzero(standing >= 0)
    at_home = cluster.members["probes"][alive, 0] == cluster.id
    return Dense(node_of[standing[alive]], at_home, cluster.rows[alive])


def _first_of_uid(uids: npt.NDArray[np.bytes_], readable: npt.NDArray[np.bool_]) -> Gids:
    """(n,) the lowest gid among the readable samples of the same uid; its own for the others."""
    result = np.arange(len(uids))
    gids = np.flatnonzero(readable)
    if len(gids):
        _, first, inverse = np.unique(uids[gids], return_index=True, return_inverse=True)
        result[gids] = gids[first[inverse.reshape(-1)]]
    return result


def _survivors(first: Gids, eligible: Gids, rank: npt.NDArray[np.int64], n: int) -> Gids:
    """(n,) by the gid of a class's first: its eligible member of the lowest rank, or NOBODY."""
    result = np.full(n, NOBODY, np.int64)
    backwards = eligible[np.argsort(-rank[eligible])]
    result[first[backwards]] = backwards  # the lowest rank is written last
    return result


def account(reason: Codes) -> Account:
    """The counts of some samples' codes."""
    counts: dict[Reason, int] = {r: int((reason == code(r)).sum()) for r in REASONS}
    unreadable = counts.pop(Reason.UNREADABLE)
    return Account(
        samples=len(reason),
        kept=int((reason == KEPT).sum()),
        dropped={str(r.value): c for r, c in counts.items() if c},
        unreadable=unreadable,
    )


def total(accounts: list[Account]) -> Account:
    """The sum of accounts."""
    dropped: dict[str, int] = {}
    for a in accounts:
        for name, count in a.dropped.items():
            dropped[name] = dropped.get(name, 0) + count
    ordered: dict[str, int] = {r.value: dropped[r.value] for r in REASONS if r.value in dropped}
    return Account(
        samples=sum(a.samples for a in accounts),
        kept=sum(a.kept for a in accounts),
        dropped=ordered,
        unreadable=sum(a.unreadable for a in accounts),
    )


@dataclass(frozen=True)
class Columns:
    """What a part's decisions table needs beside its metadata; arrays of the part's samples."""

    reason: Codes
    represented_by: list[str | None]
    similarity: npt.NDArray[np.float64]  # NaN: none
    cluster: npt.NDArray[np.int32]  # -1: none
    output_shard: list[str | None]
    output_key: list[str | None]


def table(part: Part, columns: Columns) -> pa.Table:
    """A shard's decisions, a row for EVERY sample, of `SCHEMA`. Raises DamagedFile."""
    metadata = embeddings.read_table(part.table, ["uid", "key", "row", "error"])
    names = [None if c == KEPT else REASONS[c].value for c in columns.reason.tolist()]
    value = columns.similarity
    return pa.table(
        {
            "uid": metadata["uid"],
            "shard": pa.array([part.shard.id] * part.samples, pa.string()),
            "key": metadata["key"],
            "row": metadata["row"],
            "kept": pa.array(columns.reason == KEPT),
            "reason": pa.array(names, pa.string()),
            "represented_by": pa.array(columns.represented_by, pa.string()),
            "similarity": pa.array(value, mask=np.isnan(value)),
            "cluster": pa.array(columns.cluster, mask=columns.cluster < 0),
            "error": metadata["error"],
            "output_shard": pa.array(columns.output_shard, pa.string()),
            "output_key": pa.array(columns.output_key, pa.string()),
        },
        schema=SCHEMA,
    )
