"""What the report shows of single samples: the largest duplicate groups, what was unreadable."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from made_core.corpus.corpus import Corpus, Gids
from made_core.dedup.decide import NO_SAMPLE
from made_core.embed import metadata
from made_core.errors import CorruptShard, StorageFailed
from made_core.ingest import tar
from made_core.io import files
from made_core.output.decision_tables import Decided, similarities
from made_core.reasons import DUPLICATES, UNREADABLE
from made_core.report.report import Example, Group, Unreadable, thumbnail

EXAMPLES = 5  # samples named for each kind of error


def largest_groups(corpus: Corpus, decided: Decided, groups: int, members: int) -> list[Group]:
    """The kept samples that stand for most others, with some of those, the nearest first.

    Raises DamagedFile.
    """
    duplicate = np.isin(decided.reason.rows(), [r.code for r in DUPLICATES])
    duplicate[: corpus.begin] = False  # an earlier run's report shows those
    representative = decided.representative.rows()
    removed = np.flatnonzero(duplicate & (representative != NO_SAMPLE))
    stands = representative[removed]
    kept, counts = np.unique(stands, return_counts=True)
    chosen = kept[np.lexsort((kept, -counts))[:groups]]
    shown: list[tuple[int, Gids, np.ndarray[tuple[int], np.dtype[np.float64]]]] = []
    for gid in chosen.tolist():
        others = removed[stands == gid]
        value = similarities(
            corpus, decided.canonical.take(others), decided.canonical.take(np.full(len(others), gid))
        )
        order = np.lexsort((others, -value))[:members]
        shown.append((gid, others[order], value[order]))
    wanted = np.array(sorted({g for gid, others, _ in shown for g in (gid, *others.tolist())}), int)
    found = images(corpus, wanted)
    result = []
    for (gid, others, values), size in zip(shown, np.sort(counts)[::-1].tolist(), strict=False):
        removed_ones = tuple(
            compared(found[g], v) for g, v in zip(others.tolist(), values.tolist(), strict=True)
        )
        result.append(Group(found[gid], removed_ones, size + 1))
    return result


def compared(image: Example, similarity: float) -> Example:
    """The image with its similarity to the kept one."""
    return replace(image, similarity=similarity)


def images(corpus: Corpus, gids: Gids) -> dict[int, Example]:
    """The samples' thumbnails and captions; one without thumbnail where its tar cannot be read."""
    result = {}
    for part, positions in corpus.by_part(gids):
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
            pass  # the image is not there any more: the report says so in its place
        for row, fact in zip(rows, table, strict=True):
            found = data[row]
            jpeg = None if found is None else thumbnail(found)
            result[part.start + row] = Example(
                fact["uid"], part.shard.id, fact["key"], None, fact["caption"] or "", jpeg
            )
    return result


def unreadable(corpus: Corpus, decided: Decided) -> list[Unreadable]:
    """What could not be read, by error, the most frequent first. Raises DamagedFile."""
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
