"""One measurement of `benchmarks.gpu`, in a process of its own: prints JSON lines.

    python -m benchmarks.gpu_run bare MODEL CHECKPOINT
    python -m benchmarks.gpu_run stage MODEL CHECKPOINT
    python -m benchmarks.gpu_run kmeans ROWS CLUSTERS

`bare`: the image tower on normalised tensors in the device's memory, at each precision and batch size; writes
its random weights to CHECKPOINT. `stage`: loads the model as a worker does, then reads lines such as
{"shards": [...], "threads": 4, "cores": [0, 1, 2, 3], "output": "..."} and embeds these shards. `kmeans`:
trains centroids, on the GPUs that it sees, else as a worker without one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

import open_clip
import torch

from made_core import recipe
from made_core.embed import embedded, encoder
from made_core.embed.embed import Limits, embed
from made_core.embed.settle import settle
from made_core.types import Shard

BATCHES = (256, 1024)
PRECISIONS = ("bf16", "fp16")  # fp32 is slower on every GPU with tensor cores
SECONDS = 1.0  # of each measurement of `bare`


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bare(model: str, checkpoint: Path, device: str) -> None:
    """Prints images per second at each precision and batch size."""
    config = json.loads((Path(open_clip.__file__).parent / "model_configs" / f"{model}.json").read_text())
    with torch.device(device):
        whole = open_clip.CLIP(**config).eval()
    torch.save({name: t.to(torch.bfloat16).cpu() for name, t in whole.state_dict().items()}, checkpoint)
    visual = whole.visual
    side = open_clip.transform.to_2tuple(visual.image_size)
    for precision in PRECISIONS:
        dtype = encoder.DTYPES[precision]
        visual = visual.to(dtype)
        for size in BATCHES if device == "cuda" else (4,):
            batch = torch.randn(size, 3, *side, device=device, dtype=dtype)
            with torch.inference_mode():
                for _ in range(3 if device == "cuda" else 0):
                    visual(batch)
                synchronize()
                began, done = time.perf_counter(), 0
                while time.perf_counter() - began < SECONDS:
                    for _ in range(4):
                        visual(batch)
                    synchronize()
                    done += 4 * size
                rate = done / (time.perf_counter() - began)
            print(json.dumps({"precision": precision, "batch": size, "rate": rate}), flush=True)


def stage(model: str, checkpoint: Path, device: str) -> None:
    """Embeds the shards that are named by lines of the input."""
    wanted = recipe.Encoder(model=model, pretrained=str(checkpoint), device=device, captions="skip")
    section = settle(wanted).section
    loaded = encoder.load(section)
    print(json.dumps({"precision": section.precision, "batch": section.batch_size}), flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        os.sched_setaffinity(0, given["cores"])  # of this thread and those that it starts
        limits = Limits(10**8, given["threads"], recipe.Work().samples_ahead)
        samples, before, began = 0, resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for number, path in enumerate(given["shards"]):
            found = embed(Path(path), Shard("0", path, "0" * 32, 0, None), loaded, limits, lambda _: None)
            samples += embedded.put(f"{given['output']}-{number}", found).samples
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        print(json.dumps({"samples": samples, "wall": wall, "user": user, "system": system}), flush=True)


def kmeans(rows: int, clusters: int) -> None:
    """Prints seconds of training, the centroids' digest and the mean cosine of rows to them."""
    import faiss

    from benchmarks.kmeans import cosine, rows_of
    from made_core.cluster.kmeans import fit
    from made_core.digests import digest

    data = rows_of(rows, 512, 2 * clusters, 0)
    seen = int(getattr(faiss, "get_num_gpus", int)())
    if seen:
        fit(data[:4096], 16, 2, 0, gpu=True)  # the first use of a GPU takes seconds
    began = time.perf_counter()
    means = fit(data, clusters, 20, 0, gpu=True)
    print(json.dumps({
        "gpus": seen, "seconds": time.perf_counter() - began, "cosine": cosine(data[:20_000], means),
        "digest": digest([means.tobytes().hex()]),
    }), flush=True)  # fmt: skip


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=["bare", "stage", "kmeans"])
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--device", default="cuda", help="cpu: to try this out")
    args = parser.parse_args()
    if args.kind == "kmeans":
        kmeans(int(args.first), int(args.second))
    else:
        {"bare": bare, "stage": stage}[args.kind](args.first, Path(args.second), args.device)


if __name__ == "__main__":
    main()
