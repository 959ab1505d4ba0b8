"""Decision tables: converts the global decisions to one table per input shard, and checks them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core import filters
from made_core.corpus import tables
from made_core.corpus.corpus import Corpus, Gids, Part
from made_core.dedup.decide import NO_SAMPLE
from made_core.io.arrays import StoredArray
from made_core.output.plan import Plan
from made_core.reasons import DUPLICATES, KEPT, Codes
from made_core.stages import IdentifyOutput, ResolveOutput
from made_core.vectors import cosine

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.string()),  # the input shard's id
        ("key", pa.string()),  # in the input shard
        ("row", pa.int32()),  # position in the input shard, 0 for the first
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # a reason's name; null: kept
        ("represented_by", pa.string()),  # uid of a kept sample; null: kept, or without representative
        ("similarity", pa.float64()),  # cosine of its and that sample's stored rows; null without one
        ("cluster", pa.int32()),  # null: unreadable
        ("error", pa.string()),  # why it is unreadable
        ("clip_score", pa.float64()),  # cosine of image and caption, or the json's score; null without one
        ("output_shard", pa.string()),  # of a kept sample, its shard in the output
        ("output_key", pa.string()),  # of a kept sample, its key in the output
    ]
)


@dataclass(frozen=True)
class Columns:
    """The columns of a part's decision table that are not in its metadata, by row."""

    reason: Codes
    represented_by: list[str | None]
    similarity: npt.NDArray[np.float64]  # NaN: none
    cluster: npt.NDArray[np.int32]  # -1: none
    output_shard: list[str | None]
    output_key: list[str | None]


@dataclass(frozen=True)
class Decided:
    """The stored identities and decisions by gid, and the kept gids."""

    uids: StoredArray
    canonical: StoredArray
    reason: StoredArray
    representative: StoredArray
    cluster: StoredArray
    kept: StoredArray  # of this run, ascending


@dataclass(frozen=True)
class Check:
    """Removed duplicates whose similarity to their representative was recomputed."""

    checked: int
    broken: int  # of these, those whose representative is not kept or not within eps


def opened(identities: IdentifyOutput, resolved: ResolveOutput) -> Decided:
    """Opens the outputs of identify and resolve; their content is read on access. Raises DamagedFile."""
    return Decided(
        *map(
            StoredArray,
            (
                identities.uids, identities.canonical, resolved.reason, resolved.representative,
                resolved.cluster, resolved.kept,
            ),
        )
    )  # fmt: skip


def columns(part: Part, corpus: Corpus, decided: Decided, plan: Plan, bound: float) -> tuple[Columns, Check]:
    """A part's decision columns, with similarities computed from the stored rows, and their check.

    Reads the part's slices, and single rows for representatives. Raises DamagedFile.
    """
    here = part.start, part.stop
    reason, representative = decided.reason.rows(*here), decided.representative.rows(*here)
    removed = np.flatnonzero((reason != KEPT) & (representative != NO_SAMPLE))
    representatives = representative[removed]
    value = np.full(part.samples, np.nan)
    value[removed] = similarities(
        corpus, decided.canonical.rows(*here)[removed], decided.canonical.take(representatives)
    )
    uids: list[str | None] = [None] * part.samples
    for row, uid in zip(removed.tolist(), decided.uids.take(representatives).tolist(), strict=True):
        uids[row] = uid.decode()
    kept = decided.kept
    before = bisect_left(range(len(kept)), part.start, key=lambda n: int(kept.rows(n, n + 1)[0]))
    shards: list[str | None] = [None] * part.samples
    keys: list[str | None] = [None] * part.samples
    for ordinal, row in enumerate(np.flatnonzero(reason == KEPT).tolist(), before):
        shards[row], keys[row] = plan.name(ordinal // plan.samples_per_shard), plan.key(ordinal)
    duplicate = np.isin(reason[removed], [r.code for r in DUPLICATES])
    holds = (value[removed] > bound) & (decided.reason.take(representatives) == KEPT)
    check = Check(int(duplicate.sum()), int((duplicate & ~holds).sum()))
    return Columns(reason, uids, value, decided.cluster.rows(*here), shards, keys), check


def similarities(corpus: Corpus, left: Gids, right: Gids) -> npt.NDArray[np.float64]:
    """(n,) similarities of the images with the canonical gids left[i] and right[i]; 1 if they are equal.

    Raises DamagedFile.
    """
    result = np.ones(len(left))
    differ = np.flatnonzero(left != right)
    if len(differ):
        needed, index = np.unique(np.concatenate([left[differ], right[differ]]), return_inverse=True)
        rows = corpus.gather(needed)
        a, b = index[: len(differ)], index[len(differ) :]
        result[differ] = cosine(rows[a], rows[b])
    return result


def table(part: Part, columns: Columns) -> pa.Table:
    """A shard's decisions as a table of SCHEMA, one row for EVERY sample. Raises DamagedFile."""
    found = tables.read(part, ["uid", "key", "row", "error", "clip_score"])
    value = columns.similarity
    return pa.table(
        {
            "uid": found["uid"],
            "shard": pa.array([part.shard.id] * part.samples, pa.string()),
            "key": found["key"],
            "row": found["row"],
            "kept": pa.array(columns.reason == KEPT),
            "reason": pa.array(filters.names(columns.reason), pa.string()),
            "represented_by": pa.array(columns.represented_by, pa.string()),
            "similarity": pa.array(value, mask=np.isnan(value)),
            "cluster": pa.array(columns.cluster, mask=columns.cluster < 0),
            "error": found["error"],
            "clip_score": found["clip_score"],
            "output_shard": pa.array(columns.output_shard, pa.string()),
            "output_key": pa.array(columns.output_key, pa.string()),
        },
        schema=SCHEMA,
    )
