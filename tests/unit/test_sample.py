"""The planted sample: img2dataset's format, a correct ground truth, and a task of fair difficulty."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor

from made_core.embed import perceptual
from made_core.errors import OutputError
from made_core.sample.score import score
from made_core.sample.write import Truth, write_sample

JSON_FIELDS = [
    "uid", "caption", "url", "key", "status", "error_message", "width", "height",
    "original_width", "original_height", "exif", "sha256",
]  # fmt: skip


def read(folder: Path) -> list[dict[str, Any]]:
    """All samples in the order of shards, as webdataset reads them."""
    tars = [str(tar) for tar in sorted((folder / "shards").glob("*.tar"))]
    return list(wds.WebDataset(tars, shardshuffle=False))


def files(folder: Path) -> dict[str, str]:
    """Digests of all files under `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("small")
    return folder, write_sample(folder, samples=60, shards=3, seed=5, image_size=64)


Small = tuple[Path, Truth]


def test_equal_arguments_write_equal_bytes(tmp_path: Path) -> None:
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        write_sample(tmp_path / name, samples=30, shards=2, seed=seed, image_size=48)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    other = files(tmp_path / "c")
    assert all(
        other[name] != digest
        for name, digest in files(tmp_path / "a").items()
        if not name.endswith("_stats.json")
    )


def test_the_folder_has_the_files_of_img2dataset(small: Small) -> None:
    folder, _ = small
    endings = (".parquet", ".tar", "_stats.json")
    expected = {f"{shard:05d}{ending}" for shard in range(3) for ending in endings}
    assert {path.name for path in (folder / "shards").iterdir()} == expected
    for path in (folder / "shards").glob("*.json"):
        int(path.name.split("_")[0])  # img2dataset's resume does this to every json


def test_webdataset_reads_as_many_samples_as_the_stats_say(small: Small) -> None:
    folder, _ = small
    for tar in (folder / "shards").glob("*.tar"):
        found = list(wds.WebDataset(str(tar), shardshuffle=False))
        stats = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
        rows = pq.read_table(tar.with_suffix(".parquet")).to_pylist()
        states = [row["status"] for row in rows]
        assert len(found) == stats["successes"] == states.count("success")
        assert stats["count"] == len(rows)
        assert stats["failed_to_download"] == states.count("failed_to_download")
        assert stats["failed_to_resize"] == states.count("failed_to_resize")
        assert sum(stats["status_dict"].values()) == stats["count"]
    assert len(read(folder)) == 60


def test_parquet_and_tar_join_by_key(small: Small) -> None:
    folder, _ = small
    failed = 0
    for tar in sorted((folder / "shards").glob("*.tar")):
        table = {row["key"]: row for row in pq.read_table(tar.with_suffix(".parquet")).to_pylist()}
        found = {s["__key__"]: s for s in wds.WebDataset(str(tar), shardshuffle=False)}
        for key, row in table.items():
            assert row["uid"] is not None
            if row["status"] != "success":
                failed += 1
                assert key not in found
                assert row["error_message"]
                assert row["width"] is None
                continue
            sample = found.pop(key)
            values = json.loads(sample["json"])
            assert list(values) == JSON_FIELDS
            assert values == {name: row[name] for name in JSON_FIELDS}
            assert sample["txt"].decode() == (row["caption"] or "")
            assert Image.open(io.BytesIO(sample["jpg"])).size == (row["width"], row["height"])
            assert max(row["width"], row["height"]) <= 64
            assert row["sha256"] != hashlib.sha256(sample["jpg"]).hexdigest()
            assert json.loads(row["exif"]) == {}
        assert not found
    assert failed >= 3


def test_keys_follow_img2datasets_formula(small: Small) -> None:
    folder, _ = small
    for shard in range(3):
        rows = pq.read_table(folder / "shards" / f"{shard:05d}.parquet")
        keys = rows.column("key").to_pylist()  # 21 rows per shard: two digits, five for the shard
        assert sorted(keys) == [f"{100 * shard + row:07d}" for row in range(len(keys))]
        assert keys != sorted(keys)  # download order


def test_the_ground_truth_is_correct(small: Small) -> None:
    folder, truth = small
    assert json.loads((folder / "truth.json").read_text()) == truth
    assert (truth["seed"], truth["samples"]) == (5, 60)
    data, shard_of = {}, {}
    for sample in read(folder):
        uid = json.loads(sample["json"])["uid"]
        data[uid], shard_of[uid] = sample["jpg"], sample["__url__"]
    assert set(data) == set(truth["groups"])
    assert all(len(uid) == 32 and int(uid, 16) >= 0 for uid in data)
    equal = {frozenset((a, b)) for a in data for b in data if a != b and data[a] == data[b]}
    assert {frozenset(pair) for pair in truth["exact"]} == equal
    assert equal
    assert all(len({truth["groups"][uid] for uid in pair}) == 1 for pair in equal)
    sizes = np.bincount(list(truth["groups"].values()))
    assert sizes.max() <= 6
    assert (sizes == 1).any()
    groups = truth["groups"]
    assert any(groups[a] == groups[b] and shard_of[a] != shard_of[b] for a in data for b in data)


def test_a_written_sample_is_not_overwritten(tmp_path: Path) -> None:
    write_sample(tmp_path, samples=4, shards=1, image_size=32)
    before = files(tmp_path)
    with pytest.raises(OutputError, match="already contains a sample"):
        write_sample(tmp_path, samples=4, shards=1, seed=1, image_size=32)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [{"samples": 1}, {"shards": 0}, {"samples": 3, "shards": 4}, {"seed": -1}, {"image_size": 8}],
)
def test_bounds_are_checked_before_anything_is_written(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="allowed: samples >= 2"):
        write_sample(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_score_counts_by_hand() -> None:
    groups = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 2, "f": 2}
    decisions = [
        ("a", True, None),
        ("b", False, "a"),  # correct
        ("c", False, "d"),  # wrong group
        ("d", True, None),
        ("e", False, None),  # dropped by a filter: neither correct nor wrong
        ("f", False, "e"),  # correct
    ]
    result = score(groups, decisions)
    assert astuple(result) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3, 3, 2))
    nothing = score(groups, [(uid, True, None) for uid in groups])
    assert astuple(nothing) == (1.0, 0.0, 0.0, 3, 0, 0)
    alone = score({"a": 0}, [("a", True, None)])
    assert (alone.precision, alone.recall, alone.f1) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "decision", [("x", True, None), ("a", False, "x"), ("a", True, "b"), ("a", False, "a")]
)
def test_score_refuses_what_cannot_be(decision: tuple[str, bool, str | None]) -> None:
    with pytest.raises(ValueError, match="represented by"):
        score({"a": 0, "b": 0}, [decision])


def test_score_refuses_a_sample_decided_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        score({"a": 0, "b": 0}, [("a", False, "b"), ("a", False, "b")])


def cover(uids: list[str], rows: Tensor, eps: float) -> list[tuple[str, bool, str | None]]:
    """Keeps a sample iff no kept earlier sample is above 1 - eps; brute force."""
    cosines = (rows @ rows.T).numpy()
    kept: list[int] = []
    decisions: list[tuple[str, bool, str | None]] = []
    for i, uid in enumerate(uids):
        best = max(kept, key=lambda j: float(cosines[i, j]), default=None)
        if best is not None and cosines[i, best] > 1 - eps:
            decisions.append((uid, False, uids[best]))
        else:
            kept.append(i)
            decisions.append((uid, True, None))
    return decisions


def test_the_descriptor_finds_the_planted_copies_and_mean_colour_does_not(tmp_path: Path) -> None:
    truth = write_sample(tmp_path, samples=200, shards=2, seed=0, image_size=128)
    samples = read(tmp_path)
    uids = [json.loads(sample["json"])["uid"] for sample in samples]
    pixels = torch.stack(
        [perceptual.to_pixels(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")) for sample in samples]
    )
    found = score(truth["groups"], cover(uids, perceptual.describe(pixels), perceptual.DEFAULT_EPS))
    assert found.planted > 50
    assert found.precision >= 0.95
    assert found.recall >= 0.95
    colours = perceptual.mean_colour(pixels)
    foils = [score(truth["groups"], cover(uids, colours, e)) for e in np.geomspace(1e-7, 0.3, 25)]
    assert max(foil.f1 for foil in foils) < 0.6
