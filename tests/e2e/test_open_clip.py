"""The flow with an open_clip model: its images, and captions added later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.why import explain
from made_core.errors import EncoderError
from tests.support import checks
from tests.support.factories import WORDS, make_shard, members, tiny_open_clip
from tests.support.runs import Curate, events


def test_open_clip_model(curate: Curate, tmp_path: Path) -> None:
    config, checkpoint = tiny_open_clip(tmp_path)
    make_shard(tmp_path / "in", "00000", [(f"{n:08d}", members(n)) for n in range(50)])
    encoder = {"model": config.stem, "config": str(config), "pretrained": str(checkpoint), "batch_size": 8}
    summary = curate(tmp_path / "in", output=tmp_path / "out", encoder=encoder, dedup={"eps": 1e-3})
    assert summary["encoder"]["dim"] == 16 and summary["samples"]["in"] == 50
    checks.representatives_stand(tmp_path / "out", tmp_path / "out" / "store")
    wrong = encoder | {"pretrained": str(config)}
    with pytest.raises(EncoderError, match="pretrained"):
        curate(tmp_path / "in", output=tmp_path / "other", encoder=wrong)


def test_captions_are_added_to_embedded_images(
    servers: str, curate: Curate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is embedded again; scores are cosines of stored rows; rules and filters read them."""
    config, checkpoint = tiny_open_clip(tmp_path, "able", text=WORDS)
    captions = ["a cat", None, "a dog on a beach", "x y"]
    samples = [(f"{n:08d}", members(n, captions[n % 4])) for n in range(40)]
    make_shard(tmp_path / "in", "00000", samples)
    model = {"model": config.stem, "config": str(config), "pretrained": str(checkpoint), "batch_size": 8}
    given: dict[str, Any] = {
        "store": str(tmp_path / "store"),
        "audit": {"queries": 0},
        "dedup": {"eps": 1e-4},
    }
    first = curate(tmp_path / "in", output=tmp_path / "a", encoder=model | {"captions": "skip"}, **given)
    assert first["encoder"]["caption_key"] is None
    assert {row["clip_score"] for row in checks.decisions(tmp_path / "a")} == {None}

    given["dedup"] |= {"keep": "clip_score"}
    second = curate(
        tmp_path / "in", output=tmp_path / "b", encoder=model, filters={"min_clip_score": -1}, **given
    )
    assert second["encoder"]["key"] == first["encoder"]["key"] and second["encoder"]["caption_key"]
    claims = events(servers, second["run"])
    assert (claims["embed"], claims["captions"]) == (1, 1)  # that of the first run, and ours
    (images,) = (tmp_path / "store" / "embeddings").rglob("*.npy")
    (texts,) = (tmp_path / "store" / "captions").rglob("*.npy")
    a, b = np.load(images).astype(float), np.load(texts).astype(float)
    rows = checks.decisions(tmp_path / "b")
    for row in rows:
        n = row["row"]
        expected = a[n] @ b[n] / np.linalg.norm(a[n]) / np.linalg.norm(b[n]) if b[n].any() else None
        assert row["clip_score"] == (expected if expected is None else pytest.approx(expected, abs=1e-12))
        assert row["reason"] in (("low_clip_score",) if expected is None else (None, "near_duplicate"))
    assert sum(row["clip_score"] is None for row in rows) == 10
    kept = next(row for row in rows if row["kept"])
    listing = pq.read_table(tmp_path / "b" / "shards" / "00000000.parquet").to_pylist()
    assert {r["uid"]: r["clip_score"] for r in listing}[kept["uid"]] == kept["clip_score"]
    explain(str(tmp_path / "b"), kept["uid"])
    assert f"{kept['clip_score']:.4f}" in capsys.readouterr().out
