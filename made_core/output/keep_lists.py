"""The keep lists: the kept samples as a table, and in DataComp's format."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core.corpus.corpus import Corpus, Part
from made_core.corpus.identity import SLICE
from made_core.corpus.sorting import ordered
from made_core.embed import metadata
from made_core.io.arrays import READERS
from made_core.output.decision_tables import Decided

SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key")])


def kept_table(corpus: Corpus, decided: Decided) -> pa.Table:
    """The samples that this run kept as a table of SCHEMA, in the order of the output. Raises DamagedFile."""
    kept = decided.kept.rows()

    def of_part(some: tuple[Part, npt.NDArray[np.int64]]) -> pa.Table:
        part, positions = some
        found = metadata.read_table(part.metadata, ["uid", "key"]).take(kept[positions] - part.start)
        shard = pa.repeat(pa.scalar(part.shard.id, pa.string()), len(positions))
        return pa.table([found["uid"], shard, found["key"]], schema=SCHEMA)

    with ThreadPoolExecutor(READERS) as pool:
        return pa.concat_tables([SCHEMA.empty_table(), *pool.map(of_part, corpus.by_part(kept))])


def keep_array(uids: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """(n,) DataComp's subset format: sorted pairs of 64-bit halves, dtype "u8,u8".

    Args:
        uids: as `identity.all_hex` accepts them.
    """
    result = np.empty(len(uids), "u8,u8")
    for a in range(0, len(uids), SLICE):
        numbers = bytes.fromhex("".join(uids.slice(a, SLICE).to_pylist()))
        halves = np.frombuffer(numbers, ">u8").reshape(-1, 2)
        result["f0"][a : a + SLICE], result["f1"][a : a + SLICE] = halves.T
    # Fields are sorted one by one: numpy compares records ten times as slowly.
    return result[ordered(result["f0"], lambda some: (result["f1"][some],))]


def write_keep_npy(path: Path, uids: pa.ChunkedArray) -> None:
    """Writes `keep_array(uids)` to a local file."""
    with open(path, "wb") as file:
        np.save(file, keep_array(uids))
