"""An embedded shard, written to the store as its batches arrive.

Each shard has two files: `.npy`, float16 unit rows in tar order (zero for unreadable samples), and
`.parquet`, the metadata of the same rows, including errors.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from made_core.embed.metadata import SCHEMA
from made_core.io import files
from made_core.stages import EmbedOutput
from made_core.types import FileRef
from made_core.vectors import Rows

GROUP = 1024  # rows of a parquet row group, held in memory; a constant, so that equal input gives equal bytes


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a shard."""

    rows: Rows  # (n, dim) float16
    table: pa.Table  # n rows of metadata.SCHEMA


@dataclass(frozen=True)
class EmbeddedShard:
    """A shard's embeddings and metadata, in tar order."""

    samples: int
    dim: int  # length of a row
    stray: int  # tar members that belong to no sample
    batches: Generator[Batch]  # taken once; may raise


def put(url: str, shard: EmbeddedShard) -> EmbedOutput:
    """Writes `<url>.npy` and `<url>.parquet`. A thread writes each batch while the next one is computed.

    Raises:
        StorageFailed: the storage does not answer or is full.
    """
    table_ref: list[FileRef] = []
    counts = [0, 0]

    def write_rows(rows_path: Path) -> None:
        def write_table(table_path: Path) -> None:
            counts[:] = _write(rows_path, table_path, shard)

        table_ref.append(files.put(f"{url}.parquet", write_table))

    rows_ref = files.put(f"{url}.npy", write_rows)
    unreadable, warnings = counts
    return EmbedOutput(shard.samples, rows_ref, table_ref[0], unreadable, warnings, shard.stray)


def _write(rows_path: Path, table_path: Path, shard: EmbeddedShard) -> tuple[int, int]:
    """(unreadable samples, samples with a warning)."""
    unreadable = warnings = 0
    header = {"descr": "<f2", "fortran_order": False, "shape": (shard.samples, shard.dim)}
    with (
        open(rows_path, "wb") as rows_file,
        pq.ParquetWriter(table_path, SCHEMA, compression="zstd") as tables,
        ThreadPoolExecutor(1) as writer,
        closing(shard.batches) as batches,  # ends their threads when a write fails
    ):
        np.lib.format.write_array_header_1_0(rows_file, header)
        group: list[pa.Table] = []

        def write(batch: Batch) -> None:
            nonlocal unreadable, warnings
            rows_file.write(np.ascontiguousarray(batch.rows, "<f2").data)
            unreadable += batch.table.num_rows - batch.table["error"].null_count
            warnings += batch.table.num_rows - batch.table["warning"].null_count
            group.append(batch.table)
            if (rows := sum(map(len, group))) >= GROUP:
                whole, stop = pa.concat_tables(group), rows - rows % GROUP
                tables.write_table(whole.slice(0, stop), row_group_size=GROUP)
                group[:] = [whole.slice(stop)]

        writing: Future[None] | None = None
        for batch in batches:
            if writing is not None:
                writing.result()
            writing = writer.submit(write, batch)
        if writing is not None:
            writing.result()
        if group and len(rest := pa.concat_tables(group)):
            tables.write_table(rest)
    return unreadable, warnings
