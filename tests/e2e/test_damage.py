"""A damaged stored file stops the run and is named; it is recomputed once removed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from made_core.errors import Permanent
from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from made_core.types import RunState
from tests.support.checks import outcome
from tests.support.runs import Curate


def test_a_damaged_file_is_named_and_recomputed(servers: str, curate: Curate, tmp_path: Path) -> None:
    """One flipped bit in rows that a second run over the same store reads again."""
    from flows.retry import retry

    write_sample(tmp_path / "sample", samples=60, shards=2, seed=5)
    source, store, twin = tmp_path / "sample" / "shards", tmp_path / "store", tmp_path / "twin"
    curate(source, output=tmp_path / "whole", store=str(store))
    (rows,) = store.glob("cluster_rows/*/*.rows.npy")
    data = bytearray(rows.read_bytes())
    data[len(data) // 2] ^= 1
    rows.write_bytes(data)
    # Another eps_max gives the same decisions but needs the pairs again.
    with pytest.raises(Permanent, match=rf"{re.escape(str(rows))} has crc32 \w+ in block 0 .* remove it"):
        curate(source, output=twin, store=str(store), dedup={"eps_max": 0.2})
    assert not (twin / "summary.json").exists()
    ledger = Ledger.open(servers)
    run = ledger.runs.of_output(str(twin))
    ledger.close()
    assert run is not None and str(rows) in str(run.error)
    rows.unlink()
    assert retry(run.id).state is RunState.COMPLETED
    assert outcome(twin) == outcome(tmp_path / "whole")
