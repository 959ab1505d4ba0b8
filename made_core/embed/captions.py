"""Embeds the captions of an embedded shard and scores them; no image and no tar is read.

The captions stand in the metadata that the pass over the tar stored. A shard's files are `.npy`, float16 unit
rows in tar order (zero without a caption), and `.parquet`, a table of SCHEMA.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from made_core.embed import metadata
from made_core.embed.text_tower import TextTower
from made_core.io import files
from made_core.io.arrays import StoredArray
from made_core.stages import CaptionsOutput
from made_core.types import FileRef
from made_core.vectors import cosine

# The CLIP score: cosine of the stored rows of image and caption, in float64; null without one of them.
SCHEMA = pa.schema([("clip_score", pa.float64())])
BLOCK = 2048  # captions whose tokens are in memory


def embed(
    url: str, rows: FileRef, table: FileRef, tower: TextTower, progress: Callable[[int], None]
) -> CaptionsOutput:
    """Writes `<url>.npy` and `<url>.parquet` for an embedded shard.

    Args:
        rows: of the images. table: of embed.metadata.SCHEMA.
        progress: called after each block with the number of samples done so far.

    Raises:
        DamagedFile: a stored file is missing or damaged.
        StorageFailed: the storage does not answer or is full.
    """
    images = StoredArray(rows)
    captions = metadata.read_table(table, ["caption"])["caption"]
    scores = np.full(len(images), np.nan)
    embedded = 0

    def write(path: Path) -> None:
        nonlocal embedded
        result = np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=images.shape)
        for start in range(0, len(images), BLOCK):
            stop = min(start + BLOCK, len(images))
            texts = captions.slice(start, stop - start).to_pylist()
            some = np.array([n for n, text in enumerate(texts) if text and text.strip()], np.int64)
            if len(some):
                found = tower.encode([texts[n] for n in some])
                finite = np.isfinite(found).all(axis=1)
                some = start + some[finite]
                result[some] = found[finite]
                image = images.rows(start, stop)[some - start]
                there = image.any(axis=1)
                scores[some[there]] = cosine(image[there], result[some[there]])
                embedded += len(some)
            progress(stop)
        result.flush()

    caption_rows = files.put(f"{url}.npy", write)
    scored = pa.table([pa.array(scores, mask=np.isnan(scores))], schema=SCHEMA)
    scores_ref = files.put(f"{url}.parquet", lambda path: pq.write_table(scored, path, compression="zstd"))
    return CaptionsOutput(len(images), caption_rows, scores_ref, embedded)
