"""From the global decisions back to shard order, and the check of the promise on the way."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.arrays import StoredArray
from made_core.corpus import Corpus, Gids, Part
from made_core.data import DUPLICATES, FileRef
from made_core.decisions import NOBODY, Columns
from made_core.filters import KEPT, code
from made_core.output import Plan
from made_core.pairs import similarity


@dataclass(frozen=True)
class Decided:
    """The stored catalog and decisions: arrays by gid, and the kept gids in order."""

    uids: StoredArray
    first: StoredArray
    reason: StoredArray
    representative: StoredArray
    cluster: StoredArray
    kept: StoredArray  # of this run, ascending


@dataclass(frozen=True)
class Check:
    """Removed duplicates whose similarity to their representative was computed anew."""

    checked: int
    broken: int  # represented by a sample that is not kept, or not within eps


def opened(catalog: Sequence[FileRef], decisions: Sequence[FileRef]) -> Decided:
    """What catalog and resolve put, read as it is asked for. Raises DamagedFile."""
    return Decided(*map(StoredArray, (*catalog, *decisions)))


def columns(part: Part, corpus: Corpus, decided: Decided, plan: Plan, bound: float) -> tuple[Columns, Check]:
    """A part's decision columns, each similarity computed from the stored rows, and the check.

    Reads the part's slices, and single rows for who stands for its samples. Raises DamagedFile.
    """
    here = part.start, part.stop
    reason, representative = decided.reason.rows(*here), decided.representative.rows(*here)
    removed = np.flatnonzero((reason != KEPT) & (representative != NOBODY))
    stands = representative[removed]
    value = np.full(part.samples, np.nan)
    value[removed] = similarities(corpus, decided.first.rows(*here)[removed], decided.first.take(stands))
    names: list[str | None] = [None] * part.samples
    for place, uid in zip(removed.tolist(), decided.uids.take(stands).tolist(), strict=True):
        names[place] = uid.decode()
    kept = decided.kept
    before = bisect_left(range(len(kept)), part.start, key=lambda n: int(kept.rows(n, n + 1)[0]))
    shards: list[str | None] = [None] * part.samples
    keys: list[str | None] = [None] * part.samples
    for ordinal, place in enumerate(np.flatnonzero(reason == KEPT).tolist(), before):
        shards[place], keys[place] = plan.name(ordinal // plan.samples_per_shard), plan.key(ordinal)
    promised = np.isin(reason[removed], [code(r) for r in DUPLICATES])
    holds = (value[removed] > bound) & (decided.reason.take(stands) == KEPT)
    check = Check(int(promised.sum()), int((promised & ~holds).sum()))
    return Columns(reason, names, value, decided.cluster.rows(*here), shards, keys), check


def similarities(corpus: Corpus, left: Gids, right: Gids) -> npt.NDArray[np.float64]:
    """(n,) similarities of pictures by the gids of their classes' firsts; 1 for the same picture."""
    result = np.ones(len(left))
    differ = np.flatnonzero(left != right)
    if len(differ):
        needed, place = np.unique(np.concatenate([left[differ], right[differ]]), return_inverse=True)
        rows = corpus.gather(needed)
        a, b = place[: len(differ)], place[len(differ) :]
        result[differ] = similarity(rows[a], rows[b])
    return result
