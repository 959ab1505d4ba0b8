"""The keep lists: the kept samples as a table, and in DataComp's format."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from made_core.corpus.corpus import Corpus
from made_core.corpus.identity import SLICE, Uids
from made_core.embed import metadata
from made_core.output.decision_tables import Decided

SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key")])
HEX_UID = re.compile(rb"[0-9a-f]{32}")


def kept_table(corpus: Corpus, decided: Decided) -> pa.Table:
    """The samples that this run kept as a table of SCHEMA, in the order of the output. Raises DamagedFile."""
    kept = decided.kept.rows()
    tables = [SCHEMA.empty_table()]
    for part, positions in corpus.by_part(kept):
        rows = kept[positions] - part.start
        found = metadata.read_table(part.metadata, ["uid", "key"]).take(rows)
        shard = pa.array([part.shard.id] * len(rows), pa.string())
        tables.append(pa.table([found["uid"], shard, found["key"]], schema=SCHEMA))
    return pa.concat_tables(tables)


def all_hex(uids: Uids) -> bool:
    """Whether all uids are 128-bit numbers in hex, as keep.npy requires."""
    slices = (uids[a : a + SLICE].tolist() for a in range(0, len(uids), SLICE))
    return all(HEX_UID.fullmatch(uid) for some in slices for uid in some)


def keep_array(uids: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """(n,) DataComp's subset format: sorted pairs of 64-bit halves, dtype "u8,u8". uids must be `all_hex`."""
    result = np.empty(len(uids), "u8,u8")
    for a in range(0, len(uids), SLICE):
        numbers = bytes.fromhex("".join(uids.slice(a, SLICE).to_pylist()))
        halves = np.frombuffer(numbers, ">u8").reshape(-1, 2)
        result["f0"][a : a + SLICE], result["f1"][a : a + SLICE] = halves.T
    result.sort()
    return result


def write_keep_npy(path: Path, uids: pa.ChunkedArray) -> None:
    """Writes `keep_array(uids)` to a local file."""
    with open(path, "wb") as file:
        np.save(file, keep_array(uids))
