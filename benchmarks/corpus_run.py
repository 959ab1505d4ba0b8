"""One run of `benchmarks.corpus`: the stages of one process on the shards of a store.

python -m benchmarks.corpus_run FOLDER [--plain]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.scale_run import Seconds, corpus_of, timing
from made_core.cluster import cluster_rows
from made_core.corpus import identity
from made_core.corpus.corpus import Corpus
from made_core.dedup import decisions, inputs, near_pairs
from made_core.embed import metadata
from made_core.io import files
from made_core.output import decision_tables
from made_core.output.keep_lists import kept_table, write_keep_npy
from made_core.output.plan import Plan
from made_core.reasons import KEPT
from made_core.recipe import Recipe
from made_core.report import examples
from made_core.stages import AssignOutput, IdentifyOutput
from made_core.types import FileRef

PARTS = 16  # shards per batch
PAIRS = 0.3  # near pairs a sample
EPS, EPS_MAX = 0.05, 0.1


def assigned(folder: Path, corpus: Corpus, identities: IdentifyOutput, seed: int) -> list[AssignOutput]:
    """Batches whose images have drawn clusters."""
    canonical, generator = identity.read(identities).canonical, np.random.default_rng(seed)
    k, result = math.isqrt(corpus.samples), []
    for start in range(0, len(corpus.parts), PARTS):
        parts = corpus.parts[start : start + PARTS]
        gids = np.arange(parts[0].start, parts[-1].stop)
        gids = gids[canonical[gids] == gids]
        home = generator.integers(0, k, (len(gids), 1)).astype(np.int32)
        rows, away = np.zeros((len(gids), 1), np.float16), generator.random(len(gids))
        url = str(folder / "cluster_rows" / str(start))
        result.append(cluster_rows.put(url, gids, rows, home, away, k, len(gids)))
    return result


def paired(folder: Path, identities: IdentifyOutput, seed: int) -> list[FileRef]:
    """Drawn near pairs: one image of each is of the first third."""
    found, generator = identity.read(identities), np.random.default_rng(seed)
    images = found.images
    count = int(PAIRS * len(found.canonical))
    i, j = generator.choice(images, count), generator.choice(images[: len(images) // 3], count)
    pairs = np.empty(count, near_pairs.PAIR)
    pairs["i"], pairs["j"] = np.minimum(i, j), np.maximum(i, j)
    pairs["similarity"] = 1 - EPS_MAX * generator.random(count)
    pairs = pairs[i != j]
    cuts = np.array_split(pairs, 64)
    return [files.put_bytes(str(folder / "pairs" / str(n)), cut.tobytes()) for n, cut in enumerate(cuts)]


def plain(corpus: Corpus) -> float:
    """Seconds to read uids and sizes, find repeated uids, and sort by size and uid, by the plainest means."""
    started = time.perf_counter()
    tables = [metadata.read_table(part.metadata, ["uid", "json"]) for part in corpus.parts]
    uids = np.array([u.encode() for t in tables for u in t["uid"].to_pylist()], np.bytes_)
    texts = (json.loads(text) for t in tables for text in t["json"].to_pylist())
    values = np.array([-found["original_width"] * found["original_height"] for found in texts], float)
    np.unique(uids, return_index=True, return_inverse=True)
    np.lexsort((np.arange(len(uids)), uids, values))
    return time.perf_counter() - started


def run(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Runs the stages once."""
    seconds: Seconds = {}
    timed = partial(timing, seconds)
    corpus = corpus_of(folder)
    with timed("identify"):
        identities = identity.put(str(folder / "identities" / "corpus"), identity.build(corpus))
    batches, pairs = assigned(folder, corpus, identities, seed), paired(folder, identities, seed)
    recipe = Recipe(sources=("in",), output="out")
    with timed("resolve"):
        known = inputs.read(corpus, inputs.ResolveFiles(identities, tuple(batches), tuple(pairs), ()), recipe)
        found = known.decisions(EPS)
        url, hidden = str(folder / "decisions" / "corpus"), known.scan.placeholder
        resolved = decisions.put(url, found, known.identities, known.cluster, hidden)
    del known, found
    opened = decision_tables.opened(identities, resolved)
    plan = Plan(resolved.kept_samples, 10_000)
    with timed("tabulate"):
        before = 0
        for part in corpus.parts[:PARTS]:
            columns, _ = decision_tables.columns(part, corpus, opened, plan, 1 - EPS, before)
            table = decision_tables.table(part, columns)
            pq.write_table(table, folder / f"{part.shard.id}.parquet", compression="zstd")
            before += int((columns.reason == KEPT).sum())
    with timed("publish"):
        kept = kept_table(corpus, opened)
        pq.write_table(kept, folder / "keep.parquet")
        write_keep_npy(folder / "keep.npy", kept["uid"])
        examples.largest_groups(corpus, opened, 24, 9)
        examples.least_certain(corpus, opened, EPS, 24)
    whole = sum(seconds[s] for s in ("identify", "resolve", "publish"))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    return {
        "n": corpus.samples, "kept": resolved.kept_samples, "seconds": seconds,
        "us_a_sample": round(1e6 * whole / corpus.samples, 2), "peak_mib": round(peak),
    }  # fmt: skip


def main() -> None:
    """Prints the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true", help="also run the plain version")
    args = parser.parse_args()
    found = run(args.folder)
    print(json.dumps({**found, "plain": round(plain(corpus_of(args.folder)), 2) if args.plain else None}))


if __name__ == "__main__":
    main()
