"""The log of a task names shards, and has few lines where a run has many."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from made_core.errors import CorruptShard
from made_core.ledger.ledger import Ledger
from made_core.recipe import Recipe
from made_core.stages import EMBED, EmbedOutput
from made_core.types import Encoding, FileRef, Unit
from tasks import run_units
from tasks.run_units import Progress, RunContext

FILE = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)
ENCODING = Encoding("0" * 16, "perceptual", 4, 48, "cpu", "fp32", 8, 0.1, 0.1, True)
NAMES = {"f" * 32: "00000", "e" * 32: "00001"}


@pytest.mark.parametrize("shards", [2, run_units.MANY + 1])
def test_lines_name_shards(
    ledger: Ledger,
    empty_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shards: int,
) -> None:
    """Never fingerprints. In a run of many shards only errors are above DEBUG."""
    logger = logging.getLogger("test.task")
    monkeypatch.setattr(run_units, "get_run_logger", lambda: logger)
    recipe = Recipe(sources=("in",), output=str(tmp_path / "out"))
    context = RunContext("r1", empty_url, recipe, ENCODING, shards=shards)
    ledger.runs.begin("r1", "d", {}, recipe.output, recipe.store_url, "host:1", 60, False)
    ledger.units.put("r1", EMBED, "scope", list(NAMES), 3)

    def one(unit: Unit, progress: Progress) -> EmbedOutput:
        if NAMES[unit.key] == "00001":
            raise CorruptShard("/in/00001.tar")
        return EmbedOutput(5, FILE, FILE, 0, 0, 0)

    with caplog.at_level(logging.DEBUG, logger.name):
        run_units.run_units(context, EMBED, "scope", NAMES, one)
    lines = [(r.levelno, r.getMessage()) for r in caplog.records if r.name == logger.name]
    level = logging.INFO if shards == 2 else logging.DEBUG
    assert (level, "embed 00000: attempt 1") in lines and (level, "embed 00000: done, 5 samples") in lines
    failed = "embed 00001: failed: the shard is not a complete tar: /in/00001.tar"
    assert (logging.ERROR, failed) in lines
    assert not [line for _, line in lines if any(key in line for key in NAMES)]
