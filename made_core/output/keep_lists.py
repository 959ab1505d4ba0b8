"""The keep lists: which samples stay, in DataComp's form and as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from made_core.corpus.corpus import Corpus
from made_core.embed import metadata
from made_core.output.decision_tables import Decided

HEX_UID = re.compile(r"[0-9a-f]{32}")


def kept_listing(corpus: Corpus, decided: Decided) -> list[dict[str, object]]:
    """uid, input shard and key of every sample that this run kept, in the output's order.

    Raises DamagedFile.
    """
    kept = decided.kept.rows()
    listing: list[dict[str, object]] = []
    for part, positions in corpus.by_part(kept):
        rows = (kept[positions] - part.start).tolist()
        for fact in metadata.read_table(part.table, ["uid", "key"]).take(rows).to_pylist():
            listing.append({"uid": fact["uid"], "shard": part.shard.id, "key": fact["key"]})
    return listing


def keep_array(uids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.void]] | None:
    """DataComp's subset file: sorted pairs of 64-bit halves ("u8,u8"); None where a uid is not
    128-bit hex."""
    if not all(HEX_UID.fullmatch(u) for u in uids):
        return None
    halves = [(int(u[:16], 16), int(u[16:], 16)) for u in uids]
    return np.sort(np.array(halves, np.dtype("u8,u8")))


def write_keep_npy(path: Path, uids: Sequence[str]) -> None:
    """Writes `keep_array(uids)` to a local file."""
    array = keep_array(uids)
    assert array is not None
    with open(path, "wb") as file:
        np.save(file, array)
