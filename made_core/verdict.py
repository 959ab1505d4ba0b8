"""From the global decisions back to shard order, and the check of the promise on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.catalog import Catalog
from made_core.corpus import Corpus, Gids, Part, mapped
from made_core.data import DUPLICATES, FileRef
from made_core.decisions import NOBODY, Columns
from made_core.filters import KEPT, Codes, code
from made_core.output import Plan
from made_core.pairs import similarity


@dataclass(frozen=True)
class Decided:
    """The stored decisions: arrays by gid, and the kept gids in order."""

    reason: Codes
    representative: Gids
    cluster: npt.NDArray[np.int32]
    kept: Gids  # of this run, ascending


@dataclass(frozen=True)
class Check:
    """Removed duplicates whose similarity to their representative was computed anew."""

    checked: int
    broken: int  # represented by a sample that is not kept, or not within eps


@contextmanager
def opened(refs: Sequence[FileRef]) -> Iterator[Decided]:
    """What resolve put, read as it is touched. Raises DamagedFile."""
    with ExitStack() as stack:
        yield Decided(*(stack.enter_context(mapped(ref)) for ref in refs))


def columns(
    part: Part, corpus: Corpus, catalog: Catalog, decided: Decided, plan: Plan, bound: float
) -> tuple[Columns, Check]:
    """A part's decision columns, each similarity computed from the stored rows, and the check."""
    here = slice(part.start, part.stop)
    reason = np.asarray(decided.reason[here])
    representative = np.asarray(decided.representative[here])
    gids = np.arange(part.start, part.stop)
    removed = np.flatnonzero((reason != KEPT) & (representative != NOBODY))
    stands = representative[removed]
    value = np.full(part.samples, np.nan)
    value[removed] = similarities(corpus, catalog.first[gids[removed]], catalog.first[stands])
    names: list[str | None] = [None] * part.samples
    for place, gid in zip(removed.tolist(), stands.tolist(), strict=True):
        names[place] = catalog.uids[gid].decode()
    ordinals = np.searchsorted(decided.kept, gids)
    shards: list[str | None] = [None] * part.samples
    keys: list[str | None] = [None] * part.samples
    for place in np.flatnonzero(reason == KEPT).tolist():
        ordinal = int(ordinals[place])
        shards[place], keys[place] = plan.name(ordinal // plan.samples_per_shard), plan.key(ordinal)
    promised = np.isin(reason[removed], [code(r) for r in DUPLICATES])
    holds = (value[removed] > bound) & (np.asarray(decided.reason[stands]) == KEPT)
    check = Check(int(promised.sum()), int((promised & ~holds).sum()))
    cluster = np.asarray(decided.cluster[here])
    return Columns(reason, names, value, cluster, shards, keys), check


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
