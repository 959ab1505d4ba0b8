"""Checks of a finished output by its documented formats, shared by tests and the acceptance run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tests.support import readers

ROOT = Path(__file__).parents[2]
OLD_WEBDATASET = Path(sys.prefix) / "open_clip_train"  # for open_clip_train 3.3: see the Makefile


def summary(output: Path) -> dict[str, Any]:
    """The run's summary."""
    loaded: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return loaded


def decisions(output: Path) -> list[dict[str, Any]]:
    """All rows of all decisions."""
    rows: list[dict[str, Any]] = ds.dataset(output / "decisions", format="parquet").to_table().to_pylist()
    return rows


def tars(folder: Path) -> dict[str, Path]:
    """Shard id -> tar, if names do not collide."""
    return {t.stem: t for t in sorted(folder.glob("*.tar"))}


def outcome(output: Path) -> dict[str, bytes]:
    """All files of an output that must be equal for equal inputs and settings."""
    found = sorted((*output.glob("decisions/*"), *output.glob("shards/*"), *output.glob("keep.*")))
    return {str(p.relative_to(output)): p.read_bytes() for p in found}


def members(tar: Path) -> list[tuple[str, str, bytes]]:
    """(key, suffix, bytes) of each member, in order, by Python's tarfile."""
    found = []
    with tarfile.open(tar) as opened:
        for info in opened:
            handle = opened.extractfile(info)
            assert handle is not None
            key, _, suffix = info.name.partition(".")
            found.append((key, suffix, handle.read()))
    return found


def accounts_balance(output: Path, tars: dict[str, Path]) -> None:
    """Checks in = kept + dropped + unreadable for each shard (id -> tar) and in total, against the tars."""
    by_shard = defaultdict(list)
    for row in decisions(output):
        by_shard[row["shard"]].append(row)
    total = summary(output)["samples"]
    listed = {r["shard"]: r for r in pq.read_table(output / "accounts.parquet").to_pylist()}
    for name, tar in tars.items():
        rows = by_shard[name]
        keys = list(dict.fromkeys(key for key, _, _ in members(tar)))
        assert [r["key"] for r in sorted(rows, key=lambda r: r["row"])] == keys, name
        account = listed[name]
        dropped = sum(v for k, v in account.items() if k in REASONS)
        assert account["samples"] == len(keys) == account["kept"] + dropped + account["unreadable"]
        assert account["kept"] == sum(r["kept"] for r in rows)
    assert total["in"] == sum(map(len, by_shard.values()))
    assert total["in"] == total["kept"] + sum(total["dropped"].values()) + total["unreadable"]


FILTERED = ("small_side", "aspect_ratio", "few_words", "few_chars")
REASONS = ("repeated_uid", "exact_copy", "placeholder", "near_duplicate", *FILTERED)


def stored_rows(store: Path) -> dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float64]]]:
    """(uid, key) -> float64 unit row, from every embeddings file of a store."""
    found = {}
    for table in sorted((store / "embeddings").glob("*/*.parquet")):
        rows = np.load(table.with_suffix(".npy")).astype(np.float64)
        for fact, row in zip(pq.read_table(table).to_pylist(), rows, strict=True):
            if fact["error"] is None:
                found[fact["uid"], fact["key"]] = row / np.linalg.norm(row)
    return found


def representatives_stand(output: Path, store: Path) -> int:
    """Checks that every removed duplicate's representative is kept and within eps; returns their count."""
    eps = summary(output)["dedup"]["eps"]
    rows = decisions(output)
    vector = stored_rows(store)
    kept = {r["uid"]: r for r in rows if r["kept"]}
    checked = 0
    for row in rows:
        if row["reason"] in ("near_duplicate", "exact_copy", "placeholder", "repeated_uid"):
            other = kept[row["represented_by"]]
            similarity = float(vector[row["uid"], row["key"]] @ vector[other["uid"], other["key"]])
            assert similarity > 1 - eps, row
            assert abs(similarity - row["similarity"]) < 1e-9, row
            checked += 1
        else:
            assert row["represented_by"] is None and row["similarity"] is None
    assert summary(output)["promise"]["broken"] == 0
    return checked


def bytes_equal(output: Path, tars: dict[str, Path]) -> int:
    """Checks that the output tars hold the kept samples' members byte for byte, adjacent; returns samples."""
    source = {(name, key): [] for name, tar in tars.items() for key in {k for k, _, _ in members(tar)}}  # type: dict[tuple[str, str], list[tuple[str, bytes]]]
    for name, tar in tars.items():
        for key, suffix, data in members(tar):
            source[name, key].append((suffix, data))
    expected = {
        (r["output_shard"], r["output_key"]): (r["shard"], r["key"]) for r in decisions(output) if r["kept"]
    }
    sizes = json.loads((output / "shards" / "sizes.json").read_text())
    written = sorted((output / "shards").glob("*.tar"))
    assert [t.name for t in written] == [f"{n:08d}.tar" for n in range(len(written))] == sorted(sizes)
    count = 0
    for tar in written:
        groups: list[tuple[str, list[tuple[str, bytes]]]] = []
        for key, suffix, data in members(tar):
            if not groups or groups[-1][0] != key:
                groups.append((key, []))
            groups[-1][1].append((suffix, data))
        assert len(groups) == sizes[tar.name] == len({key for key, _ in groups})
        assert [key for key, _ in groups] == pq.read_table(tar.with_suffix(".parquet"))["key"].to_pylist()
        stats = json.loads((tar.parent / f"{tar.stem}_stats.json").read_text())
        assert stats["successes"] == len(groups)
        for key, found in groups:
            assert found == source[expected.pop((tar.stem, key))], (tar, key)
        count += len(groups)
    assert not expected
    return count


def keep_lists(output: Path) -> None:
    """Checks that keep.npy is keep.parquet in DataComp's format, sorted, and equals the decisions."""
    kept = [r["uid"] for r in decisions(output) if r["kept"]]
    assert sorted(kept) == sorted(pq.read_table(output / "keep.parquet")["uid"].to_pylist())
    array = np.load(output / "keep.npy")
    assert array.dtype == np.dtype("u8,u8") and (np.sort(array) == array).all()
    assert [f"{a:016x}{b:016x}" for a, b in array.tolist()] == sorted(kept)


def readers_read(output: Path, samples: int) -> None:
    """Checks that webdataset, Ray Data and open_clip's reader read all samples.

    Each in its own process; Ray Data in this one, if it has joined Ray.
    """
    assert OLD_WEBDATASET.is_dir(), f"{OLD_WEBDATASET} is missing: run make setup"
    places = {"webdataset": None, "ray_data": None, "open_clip_train": OLD_WEBDATASET}

    def read(reader: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(places[reader])} if places[reader] else {}
        return subprocess.run(
            [sys.executable, str(Path(__file__).with_name("readers.py")), reader, str(output / "shards")],
            env={**os.environ, **path}, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip

    import ray  # here: it takes a second

    if ray.is_initialized():
        del places["ray_data"]
        assert readers.ray_data(output / "shards") == samples
    with ThreadPoolExecutor(len(places)) as pool:
        for reader, done in zip(places, pool.map(read, places), strict=True):
            assert done.returncode == 0, f"{reader}: {done.stderr[-3000:]}"
            assert int(done.stdout.split()[-1]) == samples, (reader, done.stdout[-500:])
