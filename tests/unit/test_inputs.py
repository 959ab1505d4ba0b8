"""The inputs of resolve: the same decisions for crowded clusters, with few open files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from made_core.corpus import identity
from made_core.dedup import inputs
from made_core.io import files
from made_core.reasons import KEPT
from made_core.recipe import Recipe
from made_core.settings import Settings
from tests.support.corpora import clumped, prepare, store
from tests.support.open_files import open_below


def test_crowded_clusters_share_the_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clusters are crowded: each keeps one file open, not all batches' files."""
    monkeypatch.setattr(files, "settings", lambda: Settings(scratch=tmp_path / "scratch"))
    core = prepare(tmp_path, store(tmp_path, clumped(0)), 16, 1, 1)
    pairs = files.put(str(tmp_path / "all.pairs"), core.pairs.tofile)
    found = identity.put(str(tmp_path / "identities"), core.identities)
    recipe = Recipe(sources=("in",), output="out")
    stored = inputs.ResolveFiles(found, core.batches, (pairs,), ())
    dense = inputs.ResolveFiles(found, core.batches, (), tuple(range(len(core.centroids))))
    expected = inputs.read(core.corpus, stored, recipe).decisions(0.1).reason
    known = inputs.read(core.corpus, dense, recipe)
    # Only our files: pyarrow's threads close the metadata's parquet files later.
    opened = [path for path in open_below(tmp_path) if not path.endswith(".parquet")]
    assert len(known.crowded) <= len(opened) <= len(known.crowded) + 2  # two of the identities
    assert len(known.crowded) > 10 and len(core.batches) > 3
    assert np.array_equal(known.decisions(0.1).reason, expected) and (expected == KEPT).any()
