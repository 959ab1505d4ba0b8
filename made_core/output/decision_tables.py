"""From the global decisions back to shard order, and the check of the promise on the way."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core import filters
from made_core.corpus.corpus import Corpus, Gids, Part
from made_core.dedup.decide import NO_SAMPLE
from made_core.embed import metadata
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
        ("row", pa.int32()),  # place in the input shard, 0 first
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # a reason's name; null: kept
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


@dataclass(frozen=True)
class Columns:
    """What a part's decisions table needs beside its metadata; arrays of the part's samples."""

    reason: Codes
    represented_by: list[str | None]
    similarity: npt.NDArray[np.float64]  # NaN: none
    cluster: npt.NDArray[np.int32]  # -1: none
    output_shard: list[str | None]
    output_key: list[str | None]


@dataclass(frozen=True)
class Decided:
    """The stored identities and decisions: arrays by gid, and the kept gids in order."""

    uids: StoredArray
    canonical: StoredArray
    reason: StoredArray
    representative: StoredArray
    cluster: StoredArray
    kept: StoredArray  # of this run, ascending


@dataclass(frozen=True)
class Check:
    """Removed duplicates whose similarity to their representative was computed anew."""

    checked: int
    broken: int  # represented by a sample that is not kept, or not within eps


def opened(identities: IdentifyOutput, resolved: ResolveOutput) -> Decided:
    """What identify and resolve put, read as it is asked for. Raises DamagedFile."""
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
    """A part's decision columns, each similarity computed from the stored rows, and the check.

    Reads the part's slices, and single rows for who stands for its samples. Raises DamagedFile.
    """
    here = part.start, part.stop
    reason, representative = decided.reason.rows(*here), decided.representative.rows(*here)
    removed = np.flatnonzero((reason != KEPT) & (representative != NO_SAMPLE))
    stands = representative[removed]
    value = np.full(part.samples, np.nan)
    value[removed] = similarities(
        corpus, decided.canonical.rows(*here)[removed], decided.canonical.take(stands)
    )
    names: list[str | None] = [None] * part.samples
    for place, uid in zip(removed.tolist(), decided.uids.take(stands).tolist(), strict=True):
        names[place] = uid.decode()
    kept = decided.kept
    before = bisect_left(range(len(kept)), part.start, key=lambda n: int(kept.rows(n, n + 1)[0]))
    shards: list[str | None] = [None] * part.samples
    keys: list[str | None] = [None] * part.samples
    for ordinal, place in enumerate(np.flatnonzero(reason == KEPT).tolist(), before):
        shards[place], keys[place] = plan.name(ordinal // plan.samples_per_shard), plan.key(ordinal)
    promised = np.isin(reason[removed], [r.code for r in DUPLICATES])
    holds = (value[removed] > bound) & (decided.reason.take(stands) == KEPT)
    check = Check(int(promised.sum()), int((promised & ~holds).sum()))
    return Columns(reason, names, value, decided.cluster.rows(*here), shards, keys), check


def similarities(corpus: Corpus, left: Gids, right: Gids) -> npt.NDArray[np.float64]:
    """(n,) similarities of images by the gids of their classes' canonicals; 1 for the same image."""
    result = np.ones(len(left))
    differ = np.flatnonzero(left != right)
    if len(differ):
        needed, place = np.unique(np.concatenate([left[differ], right[differ]]), return_inverse=True)
        rows = corpus.gather(needed)
        a, b = place[: len(differ)], place[len(differ) :]
        result[differ] = cosine(rows[a], rows[b])
    return result


def table(part: Part, columns: Columns) -> pa.Table:
    """A shard's decisions, a row for EVERY sample, of `SCHEMA`. Raises DamagedFile."""
    found = metadata.read_table(part.metadata, ["uid", "key", "row", "error"])
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
            "output_shard": pa.array(columns.output_shard, pa.string()),
            "output_key": pa.array(columns.output_key, pa.string()),
        },
        schema=SCHEMA,
    )
