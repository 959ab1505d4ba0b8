"""The keep lists: the kept samples as a table, and in DataComp's format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from made_core.corpus.corpus import Corpus
from made_core.embed import metadata
from made_core.output.decision_tables import Decided

SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key")])
HEX_UID = re.compile(r"[0-9a-f]{32}")


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


def all_hex(uids: Iterable[str]) -> bool:
    """Whether all uids are 128-bit numbers in hex, as keep.npy requires."""
    return all(HEX_UID.fullmatch(uid) for uid in uids)


def keep_array(uids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """(n,) DataComp's subset format: sorted pairs of 64-bit halves, dtype "u8,u8". uids must be `all_hex`."""
    halves = [(int(u[:16], 16), int(u[16:], 16)) for u in uids]
    return np.sort(np.array(halves, np.dtype("u8,u8")))


def write_keep_npy(path: Path, uids: Sequence[str]) -> None:
    """Writes `keep_array(uids)` to a local file."""
    with open(path, "wb") as file:
        np.save(file, keep_array(uids))
