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
from made_core.dedup.decisions import NO_SAMPLE
from made_core.io import files
from made_core.io.arrays import StoredArray
from made_core.output.plan import Plan
from made_core.reasons import DUPLICATES, KEPT, Codes
from made_core.stages import IdentifyOutput, ResolveOutput
from made_core.vectors import cosine

Floats = npt.NDArray[np.float64]
REREAD = 64  # blocks of stored rows that are read to compute a part's similarities again
TOLERANCE = 1e-9  # float64 sums of other processors differ by 1e-15

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
        ("output_shard", pa.string()),  # of a kept sample, its shard in the output, if shards are written
        ("output_key", pa.string()),  # of a kept sample, its key there
    ]
)


@dataclass(frozen=True)
class Columns:
    """The columns of a part's decision table that are not in its metadata, by row."""

    reason: Codes
    represented_by: list[str | None]
    similarity: Floats  # NaN: none
    cluster: npt.NDArray[np.int32]  # -1: none
    output_shard: list[str | None]
    output_key: list[str | None]


@dataclass(frozen=True)
class Decided:
    """The stored identities and decisions by gid, and the kept gids."""

    canonical: StoredArray
    reason: StoredArray
    representative: StoredArray
    represented_by: StoredArray
    similarity: StoredArray
    cluster: StoredArray
    kept: StoredArray  # of this run, ascending

    def kept_before(self, gid: int) -> int:
        """The number of samples that this run kept before `gid`."""
        return bisect_left(range(len(self.kept)), gid, key=lambda n: int(self.kept.rows(n, n + 1)[0]))

    def similarity_of(self, corpus: Corpus, gids: Gids) -> Floats:
        """(n,) similarities of removed samples to their representatives. Raises DamagedFile."""
        value: Floats = self.similarity.take(gids)
        unknown = np.flatnonzero(np.isnan(value))
        value[unknown] = self.computed(corpus, gids[unknown])
        return value

    def computed(self, corpus: Corpus, gids: Gids) -> Floats:
        """(n,) the same, from the stored rows. Raises DamagedFile."""
        others = self.representative.take(gids)
        return similarities(corpus, self.canonical.take(gids), self.canonical.take(others))


@dataclass(frozen=True)
class Check:
    """The check of a part's removed duplicates."""

    checked: int
    recomputed: int  # of these, those whose similarity was computed from the stored rows again
    mismatched: int  # of these, those for which the decisions have another similarity
    broken: int  # removed duplicates that are not within eps of their representative


def opened(identities: IdentifyOutput, resolved: ResolveOutput) -> Decided:
    """Opens the outputs of identify and resolve; their content is read on access. Raises DamagedFile."""
    return Decided(
        *map(
            StoredArray,
            (
                identities.canonical, resolved.reason, resolved.representative, resolved.represented_by,
                resolved.similarity, resolved.cluster, resolved.kept,
            ),
        )
    )  # fmt: skip


def columns(
    part: Part,
    corpus: Corpus,
    decided: Decided,
    plan: Plan,
    bound: float,
    before: int,
    reread: int = REREAD,
) -> tuple[Columns, Check]:
    """A part's decision columns, and the check of its removed duplicates.

    Reads the part's slices. Single rows are read where a similarity is not stored, and for those that are
    computed again: all, if their rows are in at most `reread` blocks, else a seeded draw of half as many.

    Args:
        before: number of samples that this run kept in the parts before.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    here = part.start, part.stop
    reason, representative = decided.reason.rows(*here), decided.representative.rows(*here)
    removed = np.flatnonzero((reason != KEPT) & (representative != NO_SAMPLE))
    value = np.full(part.samples, np.nan)
    value[removed] = decided.similarity_of(corpus, part.start + removed)
    uids: list[str | None] = [None] * part.samples
    names = decided.represented_by.rows(*here)[removed].tolist()
    for row, uid in zip(removed.tolist(), names, strict=True):
        uids[row] = uid.decode()
    shards: list[str | None] = [None] * part.samples
    keys: list[str | None] = [None] * part.samples
    for ordinal, row in enumerate(np.flatnonzero(reason == KEPT).tolist(), before):
        shards[row], keys[row] = plan.name(ordinal // plan.samples_per_shard), plan.key(ordinal)
    duplicates = removed[np.isin(reason[removed], [r.code for r in DUPLICATES])]
    unknown = np.isnan(decided.similarity.rows(*here)[duplicates])  # computed above
    again = _reread(part, decided, duplicates[~unknown], value, reread)
    equal = np.abs(decided.computed(corpus, part.start + again) - value[again]) <= TOLERANCE
    check = Check(
        checked=len(duplicates),
        recomputed=len(again) + int(unknown.sum()),
        mismatched=int((~equal).sum()),
        broken=int((~(value[duplicates] > bound)).sum()),
    )
    return Columns(reason, uids, value, decided.cluster.rows(*here), shards, keys), check


def _reread(part: Part, decided: Decided, duplicates: Gids, value: Floats, most: int) -> Gids:
    """Those of a part's duplicates, by row, whose similarity is computed again.

    Reading one row costs its whole block. In a large corpus, where almost every representative is in
    another block, all of them together would read the corpus once for each batch of shards.
    """
    per_block = max(1, files.BLOCK // max(1, part.rows.size // part.samples))
    differ = duplicates[value[duplicates] != 1]  # no rows are read of equal images
    own = decided.canonical.rows(part.start, part.stop)[differ]
    others = decided.representative.rows(part.start, part.stop)[differ]  # about where their images are
    if len(np.unique(np.concatenate([own, others]) // per_block)) <= most:
        return duplicates
    draw = np.random.default_rng(part.start).choice(
        len(duplicates), min(len(duplicates), most // 2), replace=False
    )
    return duplicates[np.sort(draw)]


def similarities(corpus: Corpus, left: Gids, right: Gids) -> Floats:
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
