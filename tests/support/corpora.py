"""Synthetic corpora, stored as files and processed by the core, for tests against the oracle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core.cluster import cluster_rows, kmeans, pair_tasks
from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.corpus.corpus import Part
from made_core.dedup import near_pairs
from made_core.embed import metadata
from made_core.stages import AssignOutput
from made_core.types import Shard
from tests.support import oracle
from tests.support.factories import put_embedded

EPS_MAX = 0.5


@dataclass(frozen=True)
class Samples:
    """Samples in corpus order, as plain lists."""

    rows: npt.NDArray[np.float16]
    images: list[int]
    uids: list[str]
    readable: list[bool]
    filtered: list[str | None]
    sides: list[int]
    scores: list[float]
    shards: list[int]  # sizes

    @property
    def cuts(self) -> list[tuple[int, int]]:
        """Each shard's samples, as a range."""
        ends = np.cumsum(self.shards).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))


def clumped(seed: int, n: int = 72, dim: int = 6) -> Samples:
    """Clumps, a chain, copies across shards, repeated uids, unreadable, filtered and isolated samples."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, dim))
    rows = centres[generator.integers(0, 20, n)] + generator.choice([0.05, 0.2, 0.5], (n, 1)) * (
        generator.normal(size=(n, dim))
    )
    turn = np.deg2rad(9.0 * np.arange(8))
    rows[:8] = 0
    rows[:8, 0], rows[:8, 1] = np.cos(turn), np.sin(turn)
    rows[8:10] = rows[10:11]  # equal rows of different images
    mixed = generator.permutation(n)
    images, uids = list(range(n)), [f"u{generator.integers(10**6):06d}-{i}" for i in range(n)]
    for _ in range(10):
        a, b = generator.integers(0, n, 2).tolist()
        images[a] = images[b]  # its row differs: the canonical image's row is used
    for _ in range(6):
        a, b = generator.integers(0, n, 2).tolist()
        uids[a] = uids[b]
    readable = (generator.random(n) > 0.08).tolist()
    stored = oracle.unit(rows[mixed]).astype(np.float16)
    for i in np.flatnonzero(~np.array(readable)).tolist():
        stored[i] = generator.choice([0.0, np.nan])
    drawn = generator.choice(["", "small_side", "few_words"], n, p=[0.86, 0.07, 0.07]).tolist()
    reasons = [reason or None for reason in drawn]
    sides = [8 if r == "small_side" else int(generator.choice([16, 32, 64])) for r in reasons]
    scores = generator.choice([0.0, 0.5, 0.5, 1.0], n).tolist()
    return Samples(
        stored,
        images,
        uids,
        readable,
        reasons,
        sides,
        scores,
        [n // 3, 0, n // 2, 1, n - n // 3 - n // 2 - 1],
    )


def unique(seed: int) -> Samples:
    """The same without repeated uids: no result may depend on the order of shards."""
    samples = clumped(seed)
    return replace(samples, uids=[f"{uid}.{i}" for i, uid in enumerate(samples.uids)])


def ties(seed: int) -> Samples:
    """Rows of sixteen +-1: similarities are eighths, many exactly 1 - eps for the larger eps."""
    samples = clumped(seed, dim=16)
    signs = np.where(np.random.default_rng(seed).random(samples.rows.shape) < 0.12, -1, 1)
    return replace(samples, rows=signs.astype(np.float16))


def equal(seed: int) -> Samples:
    """One vector for all: all centroids are equal, so all clusters but the first are empty."""
    samples = clumped(seed)
    return replace(samples, rows=np.ones_like(samples.rows))


def copies(seed: int) -> Samples:
    """Only three images."""
    samples = clumped(seed)
    return replace(samples, images=[p % 3 for p in samples.images])


def one_uid(seed: int) -> Samples:
    """Every sample is the same upstream row."""
    samples = clumped(seed)
    return replace(samples, uids=["u"] * len(samples.uids))


def one_readable(seed: int) -> Samples:
    """Almost no rows; some batches of shards have none."""
    samples = clumped(seed)
    return replace(samples, readable=[i == 40 for i in range(len(samples.uids))])


def none_left(seed: int) -> Samples:
    """Every sample fails a filter."""
    samples = clumped(seed)
    n = len(samples.uids)
    return replace(samples, filtered=["small_side"] * n, sides=[8] * n)


def store(folder: Path, samples: Samples) -> list[Part]:
    """The samples as embedded shards."""
    result = []
    for number, (start, stop) in enumerate(samples.cuts):
        records: list[dict[str, Any]] = [
            {
                "row": i - start,
                "key": f"{i - start:09d}",
                "uid": samples.uids[i],
                "error": None if samples.readable[i] else "broken",
                "image_digest": bytes(15) + bytes([samples.images[i]]),
                "width": samples.sides[i] if samples.readable[i] else None,
                "height": 64 if samples.readable[i] else None,
                "caption": "one" if samples.filtered[i] == "few_words" else "one two",
                "json": json.dumps({"score": samples.scores[i], "similarity": samples.scores[i]}),
            }
            for i in range(start, stop)
        ]
        table = pa.Table.from_pylist(records, schema=metadata.SCHEMA)
        name = f"{number:05d}"
        output = put_embedded(str(folder / name), samples.rows[start:stop], table)
        shard = Shard(name, f"{name}.tar", f"{number:032x}", 1, None)
        result.append(Part(shard, 0, stop - start, output.rows, output.metadata))
    return result


@dataclass(frozen=True)
class Core:
    """The inputs of the decisions; each step as the tasks call it."""

    corpus: corpora.Corpus
    identities: identity.Identities
    centroids: npt.NDArray[np.float32]
    batches: tuple[AssignOutput, ...]
    cluster: npt.NDArray[np.int32]  # (n,) home of each sample's vector, -1: none
    distance: npt.NDArray[np.float64]
    pairs: near_pairs.Pairs


def prepare(
    folder: Path,
    embedded: Sequence[Part],
    k: int,
    probes: int,
    batch: int = 2,
    tasks: int = 3,
    block: int = 64,
    earlier: Core | None = None,
) -> Core:
    """Identities, fit, assign by batches of shards, pairs by ranges of clusters."""
    before = earlier.corpus if earlier else None
    corpus = corpora.build(sorted(embedded, key=lambda part: part.shard.id), before)
    built = identity.build(corpus, earlier.identities.canonical if earlier else None)
    if earlier:
        means = earlier.centroids
    else:
        k = kmeans.choose_k(k, len(built.images))
        means = kmeans.fit(corpus.gather(identity.drawn(built, 1000, 0)), k, 4, 0)
    batches = list(earlier.batches) if earlier else []
    for number in range(corpus.known, len(corpus.parts), batch):
        parts = corpus.parts[number : number + batch]
        gids = built.images[(built.images >= parts[0].start) & (built.images < parts[-1].stop)]
        rows = corpus.gather(gids)
        nearest = kmeans.assign(rows, means, probes)
        away = kmeans.distances(rows, means, nearest[:, 0])
        url = str(folder / f"batch-{len(means)}-{probes}-{batch}-{number}")
        batches.append(cluster_rows.put(url, gids, rows, nearest, away, len(means), len(gids)))
    cluster, distance = cluster_rows.homes(batches, built.canonical)
    found = [earlier.pairs if earlier else np.zeros(0, near_pairs.PAIR)]
    for span in pair_tasks.pack(cluster_rows.sizes(batches), tasks):
        with cluster_rows.gathered(batches, span.start, span.stop) as clusters:
            for c in clusters:
                some = span.rows(len(c.members))
                found += near_pairs.of_cluster(
                    c.id, c.rows, c.members, 1 - EPS_MAX, block, some, corpus.begin
                )
    return Core(corpus, built, means, tuple(batches), cluster, distance, np.concatenate(found))
