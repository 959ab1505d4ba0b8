"""Stored arrays are read by slices and by rows, here and in an object store, and only those are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from made_core import corpus as corpora
from made_core import files
from made_core.corpus import Corpus, length, mapped, put_array, sliced, taken
from made_core.data import FileRef, Shard
from made_core.errors import DamagedFile
from made_core.groups import HOME, member_type

ARRAYS = [
    np.arange(3000 * 7, dtype=np.float16).reshape(3000, 7),
    np.arange(9),
    np.array([(n, [n, 2]) for n in range(900)], member_type(2)),
    np.zeros(5, HOME),
    np.array([f"{n:032x}".encode() for n in range(500)]),
    np.zeros((0, 0), np.float16),
]


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes of each read; a whole copy is an error."""
    seen: list[int] = []
    read = files.read

    def counted(url: str, start: int | None = None, end: int | None = None) -> bytes:
        data = read(url, start, end)
        seen.append(len(data))
        return data

    monkeypatch.setattr(files, "read", counted)
    yield seen


@pytest.mark.parametrize("number", range(len(ARRAYS)))
def test_slices_and_rows(place: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PIECE", 1000)  # so that slices are copied in pieces
    monkeypatch.setattr(corpora, "GAP", 100)
    array = ARRAYS[number]
    ref = put_array(f"{place}/x.npy", array)
    n = len(array)
    assert length(ref) == n
    for start, stop in ((0, n), (0, 0), (n, n), (n // 3, n // 2)):
        with sliced(ref, start, stop) as some:
            assert some.dtype == array.dtype and some.shape == array[start:stop].shape
            assert np.array_equal(some, array[start:stop])
    rows = np.random.default_rng(0).integers(0, n, 40) if n else np.zeros(0, int)
    for wanted in (rows, rows[:1], rows[:0], np.arange(n)):
        found = taken(ref, wanted)
        assert found.dtype == array.dtype and found.shape == array[wanted].shape
        assert np.array_equal(found, array[wanted])


def test_only_what_is_wanted_is_read(s3: str, traffic: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "GAP", 4096)
    monkeypatch.setattr(files, "local", None)
    ref = put_array(f"{s3}/x.npy", np.zeros((10_000, 64), np.float16))
    with sliced(ref, 5000, 5100):
        assert traffic == [corpora.HEADER, 100 * 128]
    traffic.clear()
    taken(ref, np.array([9000, 10, 12, 40, 9000]))  # three of them near each other
    assert sorted(traffic) == [128, corpora.HEADER, 31 * 128]


def test_damaged_arrays(place: str) -> None:
    """Gone, cut short, or no array at all."""
    ref = put_array(f"{place}/x.npy", np.zeros((3000, 7)))
    whole = files.read(ref.path)

    def refused() -> None:
        for read in (lambda: taken(ref, np.array([1])), lambda: length(ref)):
            with pytest.raises(DamagedFile):
                read()
        with pytest.raises(DamagedFile), sliced(ref, 1, 2):
            pass

    files.put_bytes(ref.path, whole[:-1])
    refused()
    files.remove(ref.path)
    refused()


def test_gather(place: str) -> None:
    """Rows of many parts, each at its place."""
    parts = []
    for number in range(20):
        rows = np.arange(number * 300, number * 300 + 300, dtype=np.int64)
        stored = put_array(
            f"{place}/{number}.npy", np.stack([rows % 1000, rows // 1000], 1).astype(np.float16)
        )
        parts.append((Shard(str(number), "", "", 0, None), 300, stored, FileRef("", 0, "")))
    corpus: Corpus = corpora.build(parts)
    gids = np.random.default_rng(1).permutation(6000)[:2000]
    found = corpus.gather(gids)
    assert np.array_equal(found[:, 0] + found[:, 1].astype(int) * 1000, gids)
    assert corpus.gather(gids[:0]).shape == (0, 0)
    files.remove(f"{place}/7.npy")
    with pytest.raises(DamagedFile), mapped(parts[7][2]):
        pass
    with pytest.raises(DamagedFile):
        corpus.gather(gids)
