"""Stored arrays are read by slices and rows, locally and in an object store; every read block is checked."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from made_core.cluster.cluster_rows import HOME, member_type
from made_core.errors import DamagedFile
from made_core.io import arrays, files
from made_core.io.arrays import StoredArray, put_array, read_array
from made_core.settings import Settings
from made_core.types import FileRef
from tests.support.open_files import open_below

ARRAYS: list[npt.NDArray[Any]] = [
    np.arange(3000 * 7, dtype=np.float16).reshape(3000, 7),
    np.arange(9),
    np.array([(n, [n, 2]) for n in range(900)], member_type(2)),
    np.zeros(5, HOME),
    np.array([f"{n:032x}".encode() for n in range(500)]),
    np.zeros((0, 0), np.float16),
    np.zeros((4, 0), np.float16),
    np.zeros(0, HOME),
    np.asfortranarray(np.arange(600.0).reshape(200, 3)),
]
Read = Callable[[StoredArray], npt.NDArray[Any]]


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The bytes [start, end) of each read; a whole copy is an error."""
    seen: list[tuple[int, int]] = []
    read = files.read

    def counted(url: str, start: int, end: int) -> bytes:
        seen.append((start, end))
        return read(url, start, end)

    monkeypatch.setattr(files, "read", counted)
    monkeypatch.setattr(files, "local", None)
    yield seen


def header(ref: FileRef, array: npt.NDArray[Any]) -> int:
    """The offset of an array's first row in its file."""
    return ref.size - array.nbytes


def flip(ref: FileRef, at: int) -> None:
    """Flips a bit of a stored file."""
    data = bytearray(files.read(ref.path))
    data[at] ^= 16
    files.put_bytes(ref.path, bytes(data))


@pytest.mark.parametrize("block", [1 << 20, 512])
@pytest.mark.parametrize("number", range(len(ARRAYS)))
def test_slices_and_rows(place: str, number: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", block)
    array = ARRAYS[number]
    ref = put_array(f"{place}/x.npy", array)
    n = len(array)
    stored = StoredArray(ref, 16 * block)
    assert len(stored) == n and stored.shape == array.shape and stored.dtype == array.dtype
    for start, stop in ((n // 3, n // 2), (0, 0), (n, n), (0, n)):
        some = stored.rows(start, stop)
        assert some.dtype == array.dtype and some.shape == array[start:stop].shape
        assert np.array_equal(some, array[start:stop]) and not some.flags.writeable
    rows = np.random.default_rng(0).integers(0, n, 40) if n else np.zeros(0, int)
    for wanted in (rows, rows[:1], rows[:0], np.arange(n)):
        found = StoredArray(ref, 16 * block).take(wanted)
        assert found.dtype == array.dtype and found.shape == array[wanted].shape
        assert np.array_equal(found, array[wanted])
    assert np.array_equal(read_array(ref), array)
    for span in ((0, n + 1), (-1, 0), (n, n - 1)):
        with pytest.raises(IndexError, match=r"x\.npy has"):
            stored.rows(*span)
    for wrong in (-1, n):
        with pytest.raises(IndexError, match=r"x\.npy has"):
            stored.take(np.array([wrong]))


def touched(ref: FileRef, array: npt.NDArray[Any], rows: list[int]) -> set[int]:
    """The blocks under the header's region and the bytes of these rows, byte by byte."""
    begin, width = header(ref, array), array.nbytes // max(1, len(array))
    held = [*range(min(arrays.HEADER, ref.size))]
    held += [byte for row in rows for byte in range(begin + row * width, begin + (row + 1) * width)]
    return {byte // files.BLOCK for byte in held}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    """Reads in any order return correct values or raise an error that names the damaged block."""
    monkeypatch.setattr(files, "BLOCK", data.draw(st.sampled_from([64, 100, 256, 1000])))
    piece = data.draw(st.sampled_from([100, 500, 5000]))
    shape = data.draw(st.sampled_from([(0,), (5,), (40, 3), (500,), (200, 16), (7, 300)]))
    dtypes: list[np.dtype[Any]] = [np.dtype(np.int8), np.dtype(np.float16), np.dtype("S5"), HOME]
    dtype = data.draw(st.sampled_from(dtypes))
    raw = np.random.default_rng(data.draw(st.integers(0, 99))).bytes(int(np.prod(shape)) * dtype.itemsize)
    array = np.frombuffer(raw, dtype).reshape(shape)
    place = data.draw(st.sampled_from([str(tmp_path), "memory://arrays"]))
    ref = put_array(f"{place}/x.npy", array)
    bad = data.draw(st.none() | st.integers(0, ref.size - 1).map(lambda at: at // files.BLOCK))
    if bad is not None:
        last = min(ref.size, (bad + 1) * files.BLOCK) - 1
        flip(ref, data.draw(st.sampled_from([bad * files.BLOCK, last])))

    def expect(rows: list[int], read: Callable[[], npt.NDArray[Any]]) -> None:
        if bad in touched(ref, array, rows):
            begin, end = bad * files.BLOCK, min(ref.size, (bad + 1) * files.BLOCK)
            place = rf"x\.npy has crc32 \w+ in block {bad} \(bytes {begin} to {end}\), not"
            for _ in range(2):  # it is found again
                with pytest.raises(DamagedFile, match=rf"{place} {ref.blocks[8 * bad :][:8]}; remove it"):
                    read()
        else:
            assert read().tobytes() == array[rows].tobytes()

    if bad in touched(ref, array, []):
        expect([], lambda: read_array(ref))
        return
    stored = StoredArray(ref, piece)
    for _ in range(data.draw(st.integers(1, 4))):
        n = len(array)
        if data.draw(st.booleans()):
            start = data.draw(st.integers(0, n))
            stop = data.draw(st.integers(start, n))
            expect([*range(start, stop)], partial(stored.rows, start, stop))
        else:
            rows = data.draw(st.lists(st.integers(0, n - 1), max_size=6)) if n else []
            expect(rows, partial(stored.take, np.array(rows, np.int64)))


@pytest.mark.parametrize("at", ["first", "last"])
def test_a_real_block_s_edges(place: str, at: str) -> None:
    """Blocks of 1 MiB: a row that ends where the damaged one begins is read, its neighbour is not."""
    array = np.arange(3 << 17)  # 8 bytes each: three blocks, and a last one of the header's size
    ref = put_array(f"{place}/x.npy", array)
    assert len(ref.blocks) == 4 * 8
    inside = [(1 << 20) - header(ref, array) >> 3, ((2 << 20) - header(ref, array) >> 3) - 1]
    flip(ref, 1 << 20 if at == "first" else (2 << 20) - 1)
    stored = StoredArray(ref)
    assert np.array_equal(stored.rows(0, inside[0]), array[: inside[0]])
    assert np.array_equal(stored.take(np.array([inside[1] + 1, 5])), [inside[1] + 1, 5])
    assert len(stored.rows(inside[0] + 1, inside[0] + 1)) == 0  # nothing of it
    for row in inside:
        with pytest.raises(DamagedFile, match="in block 1 "):
            stored.take(np.array([row]))
        with pytest.raises(DamagedFile, match="in block 1 "):
            StoredArray(ref).rows(row, row + 1)
    with pytest.raises(DamagedFile, match="in block 1 "):
        read_array(ref)


@pytest.mark.integration
def test_only_requested_blocks_are_read(
    s3: str, traffic: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, adjacent blocks in one request, no request larger than a piece."""
    monkeypatch.setattr(files, "BLOCK", 4096)
    array = np.arange(10_000 * 64, dtype=np.uint16).reshape(10_000, 64)  # 32 rows per block
    ref = put_array(f"{s3}/x.npy", array)
    stored = StoredArray(ref, 4 * 4096)
    assert traffic == [(0, 4096)]
    traffic.clear()
    row = (10 * 4096 - header(ref, array)) // 128  # the first of block 10
    stored.rows(row + 32, row + 40)
    assert traffic == [(11 * 4096, 12 * 4096)]
    stored.take(np.array([row + 320, row + 5, row, row + 70, row + 5]))
    assert traffic[1:] == [(n * 4096, (n + 1) * 4096) for n in (10, 12, 20)]
    traffic.clear()
    stored.rows(row, row + 32 * 10)  # blocks 10 to 19: 13 to 19 are new
    assert traffic == [(13 * 4096, 17 * 4096), (17 * 4096, 20 * 4096)]
    traffic.clear()
    stored.rows(row, row + 32 * 11)
    stored.rows(5, 5)
    assert traffic == []
    assert np.array_equal(stored.rows(), array)
    assert sum(end - start for start, end in traffic) == ref.size - 12 * 4096


def test_a_slice_is_on_disk_and_removed_with_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in memory; its view outlives the array; afterwards no file or descriptor is left."""
    monkeypatch.setattr(files, "settings", lambda: Settings(scratch=tmp_path))
    array = np.random.default_rng(0).integers(0, 2**62, 6 << 20)  # 48 MiB
    ref = put_array("memory://big/x.npy", array)
    tracemalloc.start()
    some = StoredArray(ref).rows(1 << 20, 5 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * arrays.PIECE
    assert np.array_equal(some, array[1 << 20 : 5 << 20]) and len(open_below(tmp_path)) > 0
    del some
    assert open_below(tmp_path) == [] and list(tmp_path.iterdir()) == []
    files.remove("memory://big")


@pytest.mark.parametrize("size", [0, 5, 200, 3000])
def test_a_file_that_is_not_an_array(place: str, size: int) -> None:
    """An undamaged file that is not an array."""
    ref = files.put_bytes(f"{place}/x.npy", b"x" * size)
    with pytest.raises(DamagedFile, match=r"x\.npy is not a \.npy array"):
        StoredArray(ref)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", None])
def test_a_file_of_another_size(place: str, change: Callable[[bytes], bytes] | None) -> None:
    """Shorter, longer or missing: found before anything is read; the error says what to do."""
    ref = put_array(f"{place}/x.npy", np.zeros((3000, 7)))
    if change:
        files.put_bytes(ref.path, change(files.read(ref.path)))
        match = rf"x\.npy has \d+ bytes, not {ref.size}; remove it, then run `made retry`"
    else:
        files.remove(ref.path)
        match = r"x\.npy is missing .* run `made retry` to recompute it"
    with pytest.raises(DamagedFile, match=match):
        StoredArray(ref)


@pytest.mark.integration
def test_a_file_that_is_truncated_while_it_is_read(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote file that is truncated or removed after it was opened."""
    ref = put_array(f"{s3}/x.npy", np.zeros(1 << 18))
    stored = StoredArray(ref)
    files.put_bytes(ref.path, files.read(ref.path)[: (3 << 20) // 2])
    with pytest.raises(DamagedFile, match="bytes from"):
        stored.rows()
    files.remove(ref.path)
    with pytest.raises(DamagedFile, match="is missing"):
        stored.rows()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5000), st.sampled_from([1, 64, 1000, 5000, 1 << 20]))
@example(5000, 1000)
@example(0, 64)
def test_checksums_are_those_of_the_blocks(size: int, block: int) -> None:
    """8 hex digits per block, including a last partial one; none for an empty file."""
    data = np.random.default_rng(size).bytes(size)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(files, "BLOCK", block)
        ref = files.put_bytes("memory://sums/x", data)
        assert files.reference("memory://sums/x") == ref
    blocks = [zlib.crc32(data[at : at + block]) for at in range(0, size, block)]
    assert ref.blocks == "".join(f"{value:08x}" for value in blocks)
