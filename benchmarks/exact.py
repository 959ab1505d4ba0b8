"""What does not depend on device and precision, and how much the rest does.

    python -m benchmarks.exact --rows 250000 --real FOLDER

1. Decisions on a store. Pairs of stored rows whose cosine is within WIDTH of 1 - eps, at eps .01 to .1. A
   product in fp32, bf16 or fp16 finds the candidates, the float64 product of the stored rows decides: no
   decision differs. The table also says how many would, if the product itself decided.
2. With `--real FOLDER` (shards/, and encoder/ with an open_clip config and checkpoint): what the model sees
   against open_clip's own transform, on every readable image but 16-bit grey ones, which open_clip clips.
3. There too: decisions by rule cover where the embeddings were made in bf16, not fp32. These may differ.

Prints tables and one JSON line; exits 0 only if no decision of 1 differs, and in 2 the mean difference of
pixels is at most 0.05 of 255 for every image and the smallest cosine of rows at least 0.9999.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from made_core import recipe
from made_core.embed import encoder
from made_core.errors import BadImage
from made_core.ingest.decode import Pixels, decode
from made_core.ingest.tar import IMAGES
from made_core.vectors import MARGIN, Rows, cosine

EPS = (0.01, 0.02, 0.05, 0.1)
DIM = 512
WIDTH = 0.002  # of the cosines around the bound
CHUNK = 8192  # pairs in memory
BLOCK = 64  # rows of a product
# By which a product of unit rows can be off: both factors and the result are rounded, at 8 and 11 bits.
PRODUCTS = {"fp32": (torch.float32, MARGIN), "bf16": (torch.bfloat16, 0.012), "fp16": (torch.float16, 0.0015)}
PIXELS, COSINE = 0.05, 0.9999  # goals

Floats = npt.NDArray[np.float64]


def pairs(count: int, eps: float, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """`count` pairs of float16 rows, in chunks: left[i] and right[i] have a cosine near 1 - eps."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, CHUNK):
        shape = min(CHUNK, count - start), DIM
        left, other = (generator.standard_normal(shape, np.float32) for _ in range(2))
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        other -= (left * other).sum(1, keepdims=True) * left
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        wanted = (1 - eps + generator.uniform(-WIDTH, WIDTH, shape[0]).astype(np.float32))[:, None]
        right = wanted * left + np.sqrt(1 - wanted**2) * other
        yield left.astype(np.float16), right.astype(np.float16)


def product(left: Rows, right: Rows, dtype: torch.dtype) -> Floats:
    """(n,) products of unit rows left[i] and right[i], by matrix products in `dtype`."""
    a, b = (torch.from_numpy(rows).float() for rows in (left, right))
    a, b = (rows / rows.norm(dim=1, keepdim=True) for rows in (a, b))
    found = [
        (a[n : n + BLOCK].to(dtype) @ b[n : n + BLOCK].to(dtype).T).diagonal()
        for n in range(0, len(a), BLOCK)
    ]
    result: Floats = torch.cat(found).double().numpy()
    return result


def changed(rows: int, eps: float, seed: int) -> dict[str, tuple[int, int]]:
    """By product: decisions that differ from the exact ones, and those that would if it decided itself."""
    counts = {name: [0, 0] for name in PRODUCTS}
    bound = 1 - eps
    for left, right in pairs(rows // 2, eps, seed):
        exact = cosine(left, right) > bound
        for name, (dtype, margin) in PRODUCTS.items():
            score = product(left, right, dtype)
            candidates = np.flatnonzero(score > bound - margin)
            decided = np.zeros(len(exact), bool)
            decided[candidates] = cosine(left[candidates], right[candidates]) > bound
            counts[name][0] += int((decided != exact).sum())
            counts[name][1] += int(((score > bound) != exact).sum())
    return {name: (ours, alone) for name, (ours, alone) in counts.items()}


def images(folder: Path) -> Iterator[bytes]:
    """The images of a folder's shards."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.name.rpartition(".")[2].lower() in IMAGES:
                    yield file.read()


def loaded(config: Path, checkpoint: Path, precision: str) -> encoder.Encoder:
    """The encoder in `precision`, on the CPU."""
    part = recipe.Encoder(
        model=config.stem, config=str(config), pretrained=str(checkpoint), device="cpu",
        precision=precision, captions="skip",
    )  # fmt: skip
    return encoder.load(encoder.resolve(part))


def embedded(one: encoder.Encoder, inputs: list[Pixels]) -> npt.NDArray[np.float32]:
    """(n, dim) unit rows."""
    size = one.encoding.batch_size
    return np.concatenate([one.encode(inputs[n : n + size]) for n in range(0, len(inputs), size)])


def covered(rows: Rows, eps: float) -> npt.NDArray[np.bool_]:
    """(n,) whether each sample is kept: in order, unless a kept one is within eps."""
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = unit @ unit.T > 1 - eps
    kept = np.zeros(len(rows), bool)
    for n in range(len(rows)):
        kept[n] = not (near[n] & kept).any()
    return kept


def on_real(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Parts 2 and 3; tells each as it is known."""
    (config,), (checkpoint,) = ((folder / "encoder").glob(name) for name in ("*.json", "*.pt"))
    fine = loaded(config, checkpoint, "fp32")
    _, _, transform = open_clip.create_model_and_transforms(config.stem, pretrained=str(checkpoint))
    scale = torch.tensor(transform.transforms[-1].std).view(3, 1, 1) * 255
    shift = torch.tensor(transform.transforms[-1].mean).view(3, 1, 1) * 255
    ours, theirs, differences = [], [], []
    for data in images(folder / "shards"):
        try:
            found = fine.to_pixels(decode(data, 10**8))
        except BadImage:
            continue
        image = Image.open(BytesIO(data))
        if image.mode.startswith("I"):
            continue
        expected = (transform(image.convert("RGB")) * scale + shift).permute(1, 2, 0).numpy()
        differences.append(float(np.abs(found - expected).mean()))
        ours.append(found)
        theirs.append(expected.round().clip(0, 255).astype(np.uint8))
    rows = embedded(fine, ours)
    cosine = float((rows * embedded(fine, theirs)).sum(axis=1).min())
    mean, worst = float(np.mean(differences)), float(np.max(differences))
    say(
        f"{len(ours):,} images: pixels differ from open_clip's by {mean:.4f} of 255, in an image by at "
        f"most {worst:.4f} (<= {PIXELS}); smallest cosine of rows {cosine:.7f} (>= {COSINE})"
    )
    coarse = embedded(loaded(config, checkpoint, "bf16"), ours)
    stored, stored_coarse = rows.astype(np.float16), coarse.astype(np.float16)
    differ = {str(eps): int((covered(stored, eps) != covered(stored_coarse, eps)).sum()) for eps in EPS}
    nearest = float((rows * coarse).sum(axis=1).min())
    say(f"embedded in bf16: smallest cosine to fp32 {nearest:.6f}; decisions that differ, by eps: {differ}")
    return {
        "images": len(ours), "pixels_mean": mean, "pixels_worst": worst, "cosine": cosine,
        "bf16_cosine": nearest, "bf16_decisions": differ,
    }  # fmt: skip


def main() -> int:
    """Returns 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=250_000, help="at each of the 4 eps")
    parser.add_argument("--real", type=Path, help="folder with shards/ and encoder/")
    args = parser.parse_args()
    table = Table(
        title=f"{args.rows:,} rows of {DIM} numbers at each eps, cosines within {WIDTH} of the bound"
    )
    for column in ("eps", "product", "changed decisions", "if the product decided"):
        table.add_column(column, justify="right")
    ours: dict[str, int] = {}
    alone: dict[str, int] = {}
    for number, eps in enumerate(EPS):
        for name, (ours_, alone_) in changed(args.rows, eps, number).items():
            table.add_row(f"{eps:g}", name, f"{ours_:,}", f"{alone_:,}")
            ours[name], alone[name] = ours.get(name, 0) + ours_, alone.get(name, 0) + alone_
    console = Console(width=110)
    console.print(table)
    found: dict[str, Any] = {"rows": args.rows, "changed": ours, "changed_alone": alone}
    met = {"changed": not any(ours.values())}
    if args.real is not None:
        real = on_real(args.real, console.print)
        found |= real
        met |= {"pixels": real["pixels_worst"] <= PIXELS, "cosine": real["cosine"] >= COSINE}
    print(json.dumps({**found, "met": met}))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
