"""The transposition keeps every row, and ranges of clusters cover all rows."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from made_core.cluster import cluster_rows
from made_core.cluster.kmeans import Clusters
from made_core.errors import DamagedFile
from made_core.io import files
from made_core.io.arrays import read_array
from made_core.settings import Settings
from made_core.stages import AssignOutput


def rows_of(gids: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
    """A row that encodes its sample."""
    return np.stack([gids % 1000, gids // 1000, np.ones(len(gids))], axis=1).astype(np.float16)


def assigned(seed: int, n: int, p: int, k: int) -> Clusters:
    """Random probes."""
    generator = np.random.default_rng(seed)
    return np.array([generator.permutation(k)[:p] for _ in range(n)], np.int32).reshape(n, p)


def away(gids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A distance that encodes its sample."""
    return gids / 30_000


def put(
    folder: Path | str, gids: npt.NDArray[np.int64], probes: Clusters, k: int, cuts: list[int]
) -> list[AssignOutput]:
    """Batches of consecutive samples; an empty one has rows without a dimension, as `gather` has."""
    batches = []
    for number, held in enumerate(np.split(np.arange(len(gids)), cuts)):
        rows = rows_of(gids[held]) if len(held) else np.zeros((0, 0), np.float16)
        url, mine = f"{folder}/{number}", gids[held]
        batches.append(cluster_rows.put(url, mine, rows, probes[held], away(mine), k, len(rows)))
    return batches


def gathered(batches: list[AssignOutput], start: int, stop: int) -> dict[int, list[tuple[int, list[int]]]]:
    """cluster -> (gid, probes) of its rows; checks that each row is its sample's."""
    result = {}
    with cluster_rows.gathered(batches, start, stop) as clusters:
        for cluster in clusters:
            assert cluster.id not in result
            assert cluster.rows.shape == (len(cluster.members), 3)
            assert cluster.rows.dtype == np.float16
            assert np.array_equal(cluster.rows, rows_of(cluster.members["gid"]))
            pairs = zip(cluster.members["gid"].tolist(), cluster.members["probes"].tolist(), strict=True)
            result[cluster.id] = list(pairs)
    return result


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 30),
    st.sampled_from([(1, 1), (1, 5), (2, 5), (4, 16)]),
    st.lists(st.integers(0, 30), max_size=4).map(sorted),
)
@example(0, 12, (2, 5), [0, 0, 6])  # the first batches are empty
@example(0, 600, (4, 16), [300])  # files large enough to be mapped
def test_each_row_once_per_probe(seed: int, n: int, shape: tuple[int, int], cuts: list[int]) -> None:
    """For any batches, a cluster contains exactly the samples that probe it, in gid order."""
    p, k = shape
    gids = np.sort(np.random.default_rng(seed).choice(30_000, n, replace=False))
    probes = assigned(seed, n, p, k)
    expected = {
        c: [(g, q) for g, q in zip(gids.tolist(), probes.tolist(), strict=True) if c in q] for c in range(k)
    }
    with tempfile.TemporaryDirectory() as folder:
        batches = put(Path(folder), gids, probes, k, [min(c, n) for c in cuts])
        assert gathered(batches, 0, k) == {c: held for c, held in expected.items() if held}
        assert gathered(batches, k // 2, k) == {c: h for c, h in expected.items() if h and c >= k // 2}
        homes = [home for batch in batches for home in read_array(batch.homes).tolist()]
    assert homes == list(zip(gids.tolist(), probes[:, 0].tolist(), away(gids).tolist(), strict=True))


@pytest.mark.integration
def test_ranges_of_clusters_read_their_slices_only(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store, all ranges together read each batch's rows about once."""
    monkeypatch.setattr(files, "BLOCK", 1024)
    gids = np.arange(3000)
    batches = put(s3, gids, assigned(0, 3000, 2, 30), 30, [1000, 2000])
    seen: list[int] = []
    read = files.read
    monkeypatch.setattr(files, "local", None)

    def counted(url: str, start: int, end: int) -> bytes:
        seen.append(end - start)
        return read(url, start, end)

    monkeypatch.setattr(files, "read", counted)
    found = [gathered(batches, a, a + 5) for a in range(0, 30, 5)]
    assert sum(len(held) for some in found for held in some.values()) == 6000
    edges = 6 * len(batches) * (3 + 2 * 2) * 1024  # a header of each file, two blocks a slice of two
    assert sum(seen) <= sum(b.rows.size + b.members.size for b in batches) + edges


def test_a_damaged_file_is_refused(place: str) -> None:
    """A flipped bit, a truncated file, a missing file."""
    gids = np.arange(10)
    batches = put(place, gids, assigned(0, 10, 1, 2), 2, [5])
    rows = batches[1].rows.path
    whole = files.read(rows)
    files.put_bytes(rows, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedFile, match=r"1\.rows\.npy has crc32"), cluster_rows.gathered(batches, 0, 2):
        pass
    files.put_bytes(rows, whole[:-1])
    with pytest.raises(DamagedFile), cluster_rows.gathered(batches, 0, 2):
        pass
    files.remove(rows)
    with pytest.raises(DamagedFile), cluster_rows.gathered(batches, 0, 2):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system to fill takes root")
@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_loses_no_row(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write is an error, never a cluster of fewer or narrower rows."""
    batches = put(tmp_path, np.arange(1000), assigned(0, 1000, 1, 1), 1, [400, 700])
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=True)
    try:
        (full / "filler").write_bytes(bytes((1 << 16) - room))
        monkeypatch.setattr(files, "settings", lambda: Settings(scratch=full))
        with pytest.raises(OSError, match="No space left"):
            gathered(batches, 0, 1)
    finally:
        subprocess.run(["umount", str(full)], check=True)
