"""The report's examples: the largest groups of duplicates, and unreadable samples."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from made_core.corpus.corpus import Corpus, Gids, Part
from made_core.dedup.decisions import NO_SAMPLE
from made_core.embed import metadata
from made_core.errors import CorruptShard, StorageFailed
from made_core.ingest import tar
from made_core.io import files
from made_core.output.decision_tables import Decided
from made_core.reasons import DUPLICATES, NEAR_DUPLICATE, UNREADABLE
from made_core.report.report import DOUBTFUL, THUMBNAIL, Example, Group, Unreadable, thumbnail

EXAMPLES = 5  # samples listed per error
POOL = 10_000  # removed samples whose similarities are computed
TARS = 100  # input shards whose images are shown: each is read, and copied from an object store, as a whole
TARS_AT_ONCE = 2  # each may be a copy in scratch, and an image takes up to a gigabyte while it is decoded
SEED = 0  # of the pairs drawn

Floats = npt.NDArray[np.float64]


def largest_groups(
    corpus: Corpus, decided: Decided, groups: int, members: int, tars: int = TARS
) -> list[Group]:
    """The kept samples that represent most others, each with the most similar of these.

    Of a group of more than POOL removed samples, POOL drawn at random are looked at.

    Args:
        groups: maximum number of groups; there are fewer where they would be from more than `tars` shards.
        members: maximum number of removed samples per group.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    duplicate = np.isin(decided.reason.rows(), [r.code for r in DUPLICATES])
    duplicate[: corpus.begin] = False  # these are in the report of an earlier run
    representative = decided.representative.rows()
    removed = np.flatnonzero(duplicate & (representative != NO_SAMPLE))
    representatives = representative[removed]
    kept, counts = np.unique(representatives, return_counts=True)
    chosen = kept[np.lexsort((kept, -counts))[:groups]]
    shown: list[tuple[int, Gids, Floats]] = []
    opened: set[int] = set()
    for gid in chosen.tolist():
        others = drawn(removed[representatives == gid], POOL)
        value = decided.similarity_of(corpus, others)
        order = np.lexsort((others, -value))[:members]
        opened.update(corpus.part_of(np.append(others[order], gid)).tolist())
        if shown and len(opened) > tars:
            break
        shown.append((gid, others[order], value[order]))
    wanted = np.array(sorted({g for gid, others, _ in shown for g in (gid, *others.tolist())}), int)
    examples = images(corpus, wanted)
    result = []
    for (gid, others, values), size in zip(shown, np.sort(counts)[::-1].tolist(), strict=False):
        removed_ones = tuple(
            compared(examples[g], v) for g, v in zip(others.tolist(), values.tolist(), strict=True)
        )
        result.append(Group(examples[gid], removed_ones, size + 1))
    return result


def least_certain(corpus: Corpus, decided: Decided, eps: float, shown: int) -> list[tuple[Example, Example]]:
    """Pairs (kept, removed) drawn from the near-duplicates nearest to the bound, the least similar first.

    Drawn from the whole band of similarities from 1 - eps to 1 - eps (1 - DOUBTFUL), and from groups of all
    sizes: a group gives a second pair only after every group of the band has given one. With fewer than
    `shown` in the band, the least similar of all. Of very many removals, POOL drawn at random are looked at.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    near = decided.reason.rows(corpus.begin, corpus.samples) == NEAR_DUPLICATE.code
    removed = drawn(np.flatnonzero(near) + corpus.begin, POOL)
    representatives = decided.representative.take(removed)
    known = representatives != NO_SAMPLE
    removed, representatives = removed[known], representatives[known]
    value = decided.similarity_of(corpus, removed)
    band = np.flatnonzero(value <= 1 - eps * (1 - DOUBTFUL))
    if len(band) < shown:
        band = np.lexsort((removed, value))[:shown]
    mixed = np.random.default_rng(SEED).permutation(band)
    nth: Counter[int] = Counter()  # pairs that each group has given
    turns = []
    for gid in representatives[mixed].tolist():
        turns.append(nth[gid])
        nth[gid] += 1
    chosen = mixed[np.argsort(turns, kind="stable")[:shown]]
    return beside(corpus, removed[chosen], representatives[chosen], value[chosen])


def drawn(gids: Gids, number: int) -> Gids:
    """At most `number` of them, drawn at random, ascending; the same ones every time."""
    if len(gids) <= number:
        return gids
    return np.sort(np.random.default_rng(SEED).choice(gids, number, replace=False))


def beside(
    corpus: Corpus, removed: Gids, representatives: Gids, similarity: Floats, side: int = THUMBNAIL
) -> list[tuple[Example, Example]]:
    """(kept, removed) with images, the least similar first. Raises DamagedFile."""
    found = images(corpus, np.unique(np.concatenate([removed, representatives])), side)
    order = np.lexsort((removed, similarity))
    return [
        (found[int(representatives[n])], compared(found[int(removed[n])], float(similarity[n])))
        for n in order
    ]


def compared(example: Example, similarity: float) -> Example:
    """The example with its similarity to the kept sample."""
    return replace(example, similarity=similarity)


def images(corpus: Corpus, gids: Gids, side: int = THUMBNAIL) -> dict[int, Example]:
    """The samples by gid, with thumbnails and captions; without a thumbnail if the tar cannot be read.

    Args:
        side: pixels: the longer side of the thumbnails.
    """

    def of_part(some: tuple[Part, Gids]) -> dict[int, Example]:
        part, positions = some
        rows = (gids[positions] - part.start).tolist()
        table = metadata.read_table(part.metadata, ["uid", "key", "caption"]).take(rows).to_pylist()
        data: dict[int, bytes | None] = dict.fromkeys(rows)
        try:
            with files.local(part.shard.url) as path:
                entries = tar.index(path).entries
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    for row in rows:
                        data[row] = tar.load(descriptor, entries[row], part.shard.url).image
                finally:
                    os.close(descriptor)
        except (FileNotFoundError, CorruptShard, StorageFailed, IndexError):
            pass  # the report says that there is no thumbnail
        result = {}
        for row, fact in zip(rows, table, strict=True):
            image = data[row]
            jpeg = None if image is None else thumbnail(image, side)
            result[part.start + row] = Example(
                fact["uid"], part.shard.id, fact["key"], None, fact["caption"] or "", jpeg
            )
        return result

    with ThreadPoolExecutor(TARS_AT_ONCE) as pool:
        return {
            gid: example
            for found in pool.map(of_part, corpus.by_part(gids))
            for gid, example in found.items()
        }


def unreadable(corpus: Corpus, decided: Decided) -> list[Unreadable]:
    """The unreadable samples by error, the most frequent error first. Raises DamagedFile."""
    gids = np.flatnonzero(decided.reason.rows(corpus.begin, corpus.samples) == UNREADABLE.code)
    gids += corpus.begin
    counts: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    for part, positions in corpus.by_part(gids):
        rows = (gids[positions] - part.start).tolist()
        for fact in metadata.read_table(part.metadata, ["key", "error"]).take(rows).to_pylist():
            counts[fact["error"]] += 1
            if len(examples[fact["error"]]) < EXAMPLES:
                examples[fact["error"]].append(f"{part.shard.id}/{fact['key']}")
    return [Unreadable(e, n, tuple(examples[e])) for e, n in counts.most_common()]
