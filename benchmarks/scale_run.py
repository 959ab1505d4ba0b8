"""One run of `benchmarks.scale`: the stages on the rows of a store, as the tasks run them, in 4 GiB.

python -m benchmarks.scale_run FOLDER [--crowd] [--curve]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from made_core.cluster import cluster_rows, kmeans
from made_core.cluster.pair_tasks import COST, PairTask, number, pack
from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.dedup import candidates, decisions, inputs, near_pairs, pair_recall
from made_core.embed import metadata
from made_core.io import files
from made_core.reasons import KEPT
from made_core.recipe import Recipe
from made_core.stages import AssignOutput
from made_core.types import FileRef, Shard

LIMIT = 4 << 30  # bytes of data
THREADS = 2  # workers
EPS, EPS_MAX = 0.05, 0.1
PARTS = 16  # shards per batch
QUERIES = 1000

Seconds = dict[str, float]


@contextmanager
def timing(seconds: Seconds, stage: str) -> Iterator[None]:
    """Adds the time that a stage takes."""
    started = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - started, 3)


def operations(n: int, k: int, dim: int, squares: float) -> Seconds:
    """Operations of the products, two per multiply-add; `squares`: sum of the squared cluster sizes."""
    sample = min(n, 256 * k)
    return {"fit": 2.0 * 21 * sample * k * dim, "assign": 2.0 * n * k * dim, "pairs": 1.0 * squares * dim}


def limit() -> None:
    """Limits the memory of this process to LIMIT and checks that the limit is enforced."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    try:
        np.ones(LIMIT // 8 + 1)
    except MemoryError:
        return
    raise SystemExit("the memory limit (RLIMIT_DATA) is not enforced on this system")


def corpus_of(folder: Path) -> corpora.Corpus:
    """The corpus of the shards in a store."""
    found = []
    for path in sorted((folder / "embeddings").glob("*.parquet")):
        samples = pq.read_metadata(path).num_rows
        shard = Shard(path.stem, str(path), path.stem, 0, samples)
        rows, table = (files.reference(str(p)) for p in (path.with_suffix(".npy"), path))
        found.append(corpora.Part(shard, 0, samples, rows, table))
    return corpora.build(found)


def crowded(means: kmeans.Centroids) -> kmeans.Centroids:
    """Replaces the centroids near the first axis by one: the worst case, as k-means would split the crowd."""
    away = means[:, 0] < 0.5
    return np.concatenate([means[away], np.eye(1, means.shape[1], dtype=np.float32)])


def fit(corpus: corpora.Corpus, built: identity.Identities, k: int) -> kmeans.Centroids:
    """As tasks/fit."""
    rows = corpus.gather(identity.drawn(built, 256 * k, 0))
    means = kmeans.fit(rows, k, 20, 0)
    return kmeans.inhabited(means, kmeans.assign(rows, means, 1)[:, 0])


def assign(
    folder: Path, corpus: corpora.Corpus, means: kmeans.Centroids, shards: int = PARTS
) -> list[AssignOutput]:
    """As tasks/assign."""

    def one(number: int) -> AssignOutput:
        parts = corpus.parts[number : number + shards]
        rows = np.concatenate([metadata.read_rows(p.rows) for p in parts])
        gids = np.arange(parts[0].start, parts[-1].stop)
        nearest = kmeans.assign(rows, means, 1)
        distance = kmeans.distances(rows, means, nearest[:, 0])
        url = str(folder / "groups" / f"{len(means)}-{number}")
        return cluster_rows.put(url, gids, rows, nearest, distance, len(means), len(rows))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(0, len(corpus.parts), shards)))


def pair(folder: Path, batches: list[AssignOutput], cost: float = COST) -> list[FileRef]:
    """As tasks/pairs, with the pair tasks of flows/steps."""
    sizes = cluster_rows.sizes(batches)

    def one(task: PairTask) -> FileRef:
        def write(path: Path) -> None:
            with open(path, "wb") as file, cluster_rows.gathered(batches, task.start, task.stop) as clusters:
                for c in clusters:
                    some = task.rows(len(c.members))
                    for found in near_pairs.of_cluster(c.id, c.rows, c.members, 1 - EPS_MAX, 2048, some):
                        file.write(found.tobytes())

        return files.put(str(folder / "pairs" / f"{len(sizes)}-{task.key}.pairs"), write)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, pack(sizes, number(sizes, batches, cost))))


def resolve(corpus: corpora.Corpus, sources: inputs.ResolveFiles) -> decisions.Decisions:
    """As tasks/resolve."""
    return inputs.read(corpus, sources, Recipe(sources=("in",), output="out")).decisions(EPS)


def whole(folder: Path, crowd: bool, shards: int = PARTS, cost: float = COST) -> dict[str, Any]:
    """Runs every stage once, with batches of `shards` shards and pair tasks of about `cost` row pairs."""
    seconds: Seconds = {}
    timed = partial(timing, seconds)
    corpus = corpus_of(folder)
    n, dim = corpus.samples, corpus.gather(np.zeros(1, np.int64)).shape[1]
    k = kmeans.choose_k("auto", n)
    candidates.int8_is_faster()  # its trial belongs to no stage
    with timed("identify"):
        built = identity.build(corpus)
        identities = identity.put(str(folder / "identities" / "corpus"), built)
    with timed("fit"):
        means = fit(corpus, built, k)
    means = crowded(means) if crowd else means
    with timed("assign"):
        batches = assign(folder, corpus, means, shards)
    sizes = cluster_rows.sizes(batches)
    with timed("pairs"):
        refs = pair(folder, batches, cost)
    with timed("resolve"):
        decided = resolve(corpus, inputs.ResolveFiles(identities, tuple(batches), tuple(refs), ()))
    squares = float((sizes.astype(float) ** 2).sum())
    spent = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    return {
        "k": len(means),
        "largest": int(sizes.max()),
        "skew": round(squares * len(means) / n**2, 3),  # 1 + cv^2 of the clusters' sizes
        "seconds": seconds,
        "cpu_seconds": round(spent.ru_utime + spent.ru_stime, 1),
        "flop": operations(n, k, dim, squares),
        "threads": THREADS,
        "pairs": sum(ref.size for ref in refs) // near_pairs.PAIR.itemsize,
        "kept": int((decided.reason == KEPT).sum()),
        "peak_mib": round(peak),
    }


def curve(folder: Path) -> list[dict[str, float]]:
    """Cost and recall at k around auto."""
    corpus = corpus_of(folder)
    built = identity.build(corpus)
    n = corpus.samples
    auto = kmeans.choose_k("auto", n)
    rows = corpus.gather(np.arange(n))
    drawn = np.sort(np.random.default_rng(0).choice(n, min(n, QUERIES), replace=False))
    found = []
    for k in (max(1, auto // 4), max(1, auto // 2), auto, 2 * auto, 4 * auto):
        times = [time.monotonic()]
        means = fit(corpus, built, k)
        times.append(time.monotonic())
        batches = assign(folder, corpus, means)
        times.append(time.monotonic())
        pair(folder, batches)
        times.append(time.monotonic())
        sizes = cluster_rows.sizes(batches).astype(float)
        probes = pair_recall.probes_of(batches, np.arange(n))
        some = pair_recall.Images(drawn, rows[drawn], probes[drawn])
        d, f = pair_recall.count(some, pair_recall.Images(np.arange(n), rows, probes), 1 - EPS, 2048).sum(
            axis=0
        )
        spent = [round(b - a, 2) for a, b in pairwise(times)]
        found.append({
            "k": k, "fit": spent[0], "assign": spent[1], "pairs": spent[2],
            "products": round((n * k + float((sizes**2).sum()) / 2) / 1e9, 3),
            "recall": round(float(f / d), 4),
        })  # fmt: skip
    return found


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crowd", action="store_true")
    parser.add_argument("--curve", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    limit()
    print(json.dumps({"curve": curve(args.folder)} if args.curve else whole(args.folder, args.crowd)))


if __name__ == "__main__":
    main()
