"""What the stages of one process cost as the corpus grows: identify, resolve and the lists of publish.

    python -m benchmarks.corpus --sizes 1280000 12800000 --seed 0

They see the whole corpus, so more nodes do not make them faster. Stores a synthetic corpus without images,
shards of 10,000 samples with jsons as img2dataset writes them. A process of its own then runs these stages as
their tasks do, and `tabulate` on one batch of shards. Clusters and near pairs are drawn, 0.3 pairs a sample.

Prints a table and one JSON line; exits 0 only if the cost a sample does not grow with the corpus, the memory
is bounded, and on the smallest size identify and resolve take less time than to read the metadata once, sort
by uid and parse the jsons in the plain way.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from made_core.embed import embedded, metadata
from made_core.embed.embedded import Batch, EmbeddedShard

PART, DIM = 10_000, 8  # samples per shard; length of a row, which these stages hardly read
COPIES = 0.05  # share of samples with another's image
STEEPEST, BYTES, PLAIN = 1.15, 300, 0.9  # goals: the exponent; bytes a sample; ours over the plain version
STAGES = ("identify", "resolve", "tabulate", "publish")


def shard(folder: Path, seed: int, number: int, samples: int) -> None:
    """Stores one embedded shard."""
    generator = np.random.default_rng([seed, number])
    rows = generator.standard_normal((samples, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    uids = [generator.bytes(16).hex() for _ in range(samples)]
    images = [generator.bytes(16) for _ in range(samples)]
    for i in range(int(COPIES * samples)):
        images[i] = images[samples - 1 - i]
    widths, heights = generator.integers(100, 2000, (2, samples)).tolist()
    jsons = [
        json.dumps({
            "uid": uid, "sha256": uid + uid, "url": f"https://example.org/{uid}.jpg", "status": "success",
            "original_width": width, "original_height": height, "exif": "{}", "error_message": None,
        })
        for uid, width, height in zip(uids, widths, heights, strict=True)
    ]  # fmt: skip
    given = {
        "row": np.arange(samples, dtype=np.int32),
        "key": [f"{number:05d}{i:04d}" for i in range(samples)],
        "uid": uids,
        "image_digest": pa.array(images, pa.binary(16)),
        "content_digest": pa.array(images, pa.binary(16)),
        "width": np.full(samples, 256, np.int32),
        "height": np.full(samples, 256, np.int32),
        "caption": [f"a photograph of {uid[:7]} beside {uid[7:]}" for uid in uids],
        "url": [f"https://example.org/{uid}.jpg" for uid in uids],
        "json": jsons,
    }
    fields = metadata.SCHEMA
    table = pa.table(
        {f.name: given.get(f.name, pa.nulls(samples, f.type)) for f in fields},
        schema=fields,
    )
    batches = (batch for batch in [Batch(rows.astype(np.float16), table)])
    url = str(folder / "embeddings" / f"{number:06d}")
    embedded.put(url, EmbeddedShard(samples, DIM, stray=0, batches=batches))


def store(folder: Path, n: int, seed: int, part: int = PART) -> None:
    """Stores n samples as embedded shards of `part`."""
    starts = range(0, n, part)
    sizes = [min(part, n - start) for start in starts]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(shard, folder, seed), range(len(sizes)), sizes, chunksize=4))


def measure(n: int, seed: int, plain: bool) -> dict[str, Any]:
    """Runs `benchmarks.corpus_run` in its own process."""
    with tempfile.TemporaryDirectory(prefix="made-corpus-", dir=os.environ.get("MADE_SCRATCH")) as folder:
        store(Path(folder), n, seed)
        command = [sys.executable, "-m", "benchmarks.corpus_run", folder, *(["--plain"] if plain else [])]
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**found, "wall": round(time.monotonic() - started, 1)}


def main() -> int:
    """Returns 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_280_000, 12_800_000], help="ascending")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    runs = [measure(n, args.seed, plain=n == args.sizes[0]) for n in args.sizes]
    table = Table(title="seconds; tabulate: of one batch of 16 shards")
    for name in ("samples", *STAGES, "us/sample", "peak MiB", "plain sorts and jsons"):
        table.add_column(name, justify="right")
    for r in runs:
        table.add_row(
            f"{r['n']:,}", *(f"{r['seconds'][s]:.1f}" for s in STAGES), f"{r['us_a_sample']:.1f}",
            f"{r['peak_mib']:,.0f}", f"{r['plain']:.1f}" if r["plain"] else "",
        )  # fmt: skip
    Console(width=130).print(table)
    first, last = runs[0], runs[-1]
    figures: dict[str, Any] = {"seed": args.seed, "runs": runs}
    figures["of_plain"] = round(
        (first["seconds"]["identify"] + first["seconds"]["resolve"]) / first["plain"], 3
    )
    good = figures["of_plain"] <= PLAIN
    print(f"identify and resolve take {figures['of_plain']} of the plain version (goal {PLAIN})")
    if len(runs) > 1:
        more = last["n"] - first["n"]
        growth = last["us_a_sample"] * last["n"] / (first["us_a_sample"] * first["n"])
        figures["exponent"] = round(math.log(growth) / math.log(last["n"] / first["n"]), 3)
        figures["bytes"] = round((last["peak_mib"] - first["peak_mib"]) * 2**20 / more)
        good = good and figures["exponent"] <= STEEPEST and figures["bytes"] <= BYTES
        print(f"cost ~ samples^{figures['exponent']} (goal {STEEPEST})")
        print(f"{figures['bytes']} bytes of memory a sample (goal {BYTES})")
    print(json.dumps(figures))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
