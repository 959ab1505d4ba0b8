"""One measurement of `benchmarks.embed`, in a process of its own: prints one JSON line.

    python -m benchmarks.embed_run made SHARD CONFIG CHECKPOINT OUTPUT

`made`: the embed stage; `made-text`: embed and captions. `bare`: the model on tensors in memory, as many
as the shard has, at the fastest batch size. `pixels`: an image's bytes in memory to the model's uint8, by
the libraries alone. `loop`: webdataset, open_clip's transform and a DataLoader. `clip-retrieval`: that
package's reader, mapper, writer and runner, without its logger, which is a process of its own;
`clip-retrieval-text`: captions too.
CPU seconds are those of all threads and child processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch

from benchmarks.embed_data import photograph, shard_of
from made_core import recipe
from made_core.embed import captions, embedded, encoder, metadata
from made_core.embed.embed import Limits, embed
from made_core.ingest import tar
from made_core.types import FileRef, Shard

BATCHES = (8, 16, 32)  # of the bare model
TRIAL = 64  # images of the trial of a batch size

Rows = npt.NDArray[np.float32]


def cpu() -> float:
    """CPU seconds of this process and its children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def timed(samples: int, do: Callable[[], Any]) -> dict[str, float]:
    """CPU and wall seconds of `do`."""
    spent, started = cpu(), time.perf_counter()
    do()
    return {"samples": samples, "cpu": cpu() - spent, "wall": time.perf_counter() - started}


def made(
    shard: Path, section: recipe.Encoder, output: Path, start: Callable[[], None]
) -> tuple[dict[str, float], list[Rows]]:
    """The embed stage, with one thread that decodes; with captions where `section` says so.

    Args:
        start: called when the model is loaded.
    """
    loaded = encoder.load(encoder.resolve(section))
    limits = Limits(10**8, threads=1, ahead=recipe.Work().samples_ahead)

    def stage(name: str, path: Path) -> list[FileRef]:
        given = Shard("0", str(path), "0" * 32, 0, None)
        done = embedded.put(str(output / name), embed(path, given, loaded, limits, lambda _: None))
        if loaded.text is None:
            return [done.rows]
        url = str(output / f"{name}-captions")
        return [done.rows, captions.embed(url, done.rows, done.metadata, loaded.text, lambda _: None).rows]

    # A worker embeds many shards: what it does once, such as imports, is not of a sample.
    stage("first", shard_of(output / "first.tar", loaded.encoding.batch_size, [photograph(0)]))
    kept: list[FileRef] = []
    start()
    found = timed(0, lambda: kept.extend(stage("made", shard)))
    rows = [metadata.read_rows(ref).astype(np.float32) for ref in kept]
    found["samples"] = len(rows[0])
    return found, rows


def bare(section: recipe.Encoder, samples: int) -> dict[str, float]:
    """The model alone on `samples` images, normalised tensors, in batches of the fastest size.

    In one piece, as the stage is measured: of shorter ones the fastest is that of a quieter moment.
    """
    open_clip.add_model_config(Path(str(section.config)))
    model = open_clip.create_model(section.model, pretrained=section.pretrained).visual.eval()
    shape = (3, *open_clip.transform.to_2tuple(model.image_size))

    def forward(size: int, images: int) -> dict[str, float]:
        batch = torch.randn(size, *shape)
        model(batch)
        return timed(images // size * size, lambda: [model(batch) for _ in range(images // size)])

    with torch.inference_mode():
        return forward(min(BATCHES, key=lambda size: forward(size, TRIAL)["cpu"]), samples)


def libraries(shard: Path) -> dict[str, float]:
    """simplejpeg and torchvision from JPEG to 224 x 224 x 3 uint8: what the CPU allows."""
    import simplejpeg
    from torchvision.transforms import InterpolationMode, v2

    transform = v2.Compose([v2.Resize(224, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224)])
    descriptor = os.open(shard, os.O_RDONLY)
    images = [tar.load(descriptor, entry, "").image for entry in tar.index(shard).entries]

    def decode() -> None:
        for image in images:
            pixels = simplejpeg.decode_jpeg(image, "RGB")
            transform(torch.from_numpy(pixels).permute(2, 0, 1))

    return timed(len(images), decode)


def others(
    kind: str, shard: Path, section: recipe.Encoder, output: Path
) -> tuple[dict[str, float], list[Rows]]:
    """clip-retrieval, or the plain loop on images only."""
    open_clip.add_model_config(Path(str(section.config)))
    model, _, transform = open_clip.create_model_and_transforms(section.model, pretrained=section.pretrained)
    model.eval()
    count = len(tar.index(shard).entries)
    if kind == "loop":
        return plain(shard, model, transform, output, count)
    tokenizer = open_clip.get_tokenizer(section.model) if kind.endswith("-text") else None
    return clip_retrieval(shard, model, transform, tokenizer, output, count)


def plain(
    shard: Path, model: Any, transform: Any, output: Path, count: int
) -> tuple[dict[str, float], list[Rows]]:
    """What a user writes first."""
    import webdataset

    rows: list[Rows] = []

    def loop() -> None:
        data = webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil").to_tuple("jpg")
        loader = torch.utils.data.DataLoader(data.map_tuple(transform), batch_size=256)
        with torch.no_grad():
            for (batch,) in loader:
                found = model.encode_image(batch)
                rows.append((found / found.norm(dim=-1, keepdim=True)).numpy())
        np.save(output / "loop.npy", np.concatenate(rows).astype(np.float16))

    return timed(count, loop), [np.concatenate(rows)]


def clip_retrieval(
    shard: Path, model: Any, transform: Any, tokenizer: Any, output: Path, count: int
) -> tuple[dict[str, float], list[Rows]]:
    """The package at its defaults, but without worker processes, which need several shards."""
    given = ModuleType("all_clip")
    given.load_clip = lambda **_: (model, transform, None)  # type: ignore[attr-defined]
    sentences = ModuleType("sentence_transformers")
    sentences.SentenceTransformer = None  # type: ignore[attr-defined]
    package = ModuleType("clip_retrieval")  # its own __init__ imports the whole back end
    inference = ModuleType("clip_retrieval.clip_inference")
    root = Path(os.environ["CLIP_RETRIEVAL"]) / "clip_retrieval"
    package.__path__, inference.__path__ = [str(root)], [str(root / "clip_inference")]
    for module in (given, sentences, package, inference):
        sys.modules[module.__name__] = module
    from clip_retrieval.clip_inference import mapper, reader, runner, writer

    class Quiet:
        """In place of the logger."""

        def start(self) -> None: ...

        def end(self) -> None: ...

        def __call__(self, stats: dict[str, float]) -> None: ...

    text = tokenizer is not None
    enabled = {"enable_image": True, "enable_text": text, "enable_metadata": False}
    run = runner.Runner(
        lambda sampler: reader.WebdatasetReader(
            sampler, transform, tokenizer, [str(shard)], 256, 0, text, True
        ),
        lambda: mapper.ClipMapper(
            **enabled, use_mclip=False, clip_model="", use_jit=False, mclip_model="", clip_cache_path=None
        ),
        lambda i: writer.NumpyWriter(i, str(output), text, True, False, 1),
        lambda _: Quiet(),
        1,
    )
    found = timed(count, lambda: run(0))
    folders = ("img_emb", "text_emb") if text else ("img_emb",)
    return found, [np.load(next((output / name).glob("*.npy"))).astype(np.float32) for name in folders]


def ready() -> None:
    """Says so, and waits for a line."""
    print("ready", flush=True)
    sys.stdin.readline()


def peak_mib() -> float:
    """Peak of resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints one JSON line; rows, of images then captions, go to OUTPUT/KIND.rows.npy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "kind",
        choices=["made", "made-text", "bare", "pixels", "loop", "clip-retrieval", "clip-retrieval-text"],
    )
    for name in ("shard", "config", "checkpoint", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--limit-mib", type=int, help="of data, enforced by the kernel")
    parser.add_argument("--threads", type=int, default=1, help="for the model")
    parser.add_argument("--wait", action="store_true", help="made: for a line, when the model is loaded")
    parser.add_argument("--one-core", action="store_true", help="run on one core")
    args = parser.parse_args()
    if args.one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(args.threads)
    if args.limit_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (args.limit_mib << 20,) * 2)
    section = recipe.Encoder(
        model=args.config.stem,
        config=str(args.config),
        pretrained=str(args.checkpoint),
        device="cpu",
        precision="fp32",
        captions="embed" if args.kind == "made-text" else "skip",
    )
    args.output.mkdir(parents=True, exist_ok=True)
    if args.kind == "bare":
        found = bare(section, len(tar.index(args.shard).entries))
    elif args.kind == "pixels":
        found = libraries(args.shard)
    else:
        if args.kind.startswith("made"):
            found, rows = made(args.shard, section, args.output, ready if args.wait else lambda: None)
        else:
            found, rows = others(args.kind, args.shard, section, args.output)
        np.save(args.output / f"{args.kind}.rows.npy", np.concatenate(rows))
    print(json.dumps({**found, "peak_mib": round(peak_mib(), 1)}))


if __name__ == "__main__":
    main()
