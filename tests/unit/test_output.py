"""Output shards: numbered without gaps, members byte for byte, readable by other tools."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core import recipe
from made_core.corpus import corpus, identity
from made_core.corpus.corpus import Corpus
from made_core.corpus.identity import hashes
from made_core.embed import embed, embedded, encoder
from made_core.errors import ChangedInput, CorruptShard
from made_core.ingest import discovery
from made_core.ingest import tar as samples
from made_core.output import keep_lists
from made_core.output.keep_lists import keep_array, write_keep_npy
from made_core.output.plan import Plan
from made_core.output.write import write_shard
from tests.support.factories import make_shard, members, shard_of


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1500), st.integers(1, 700) | st.sampled_from([1, 10, 99, 100, 101, 1000, 10_000]))
def test_plan_has_no_gaps(kept: int, size: int) -> None:
    plan = Plan(kept, size)
    slices = [plan.slice(n) for n in range(plan.shards)]
    assert [i for start, stop in slices for i in range(start, stop)] == list(range(kept))
    assert all(stop - start == size for start, stop in slices[:-1])
    assert all(1 <= stop - start <= size for start, stop in slices[-1:])
    assert plan.shards == math.ceil(kept / size)
    keys = [plan.key(i) for i in range(kept)]
    assert keys == sorted(set(keys))
    assert len({len(k) for k in keys}) <= 1
    names = [plan.name(n) for n in range(plan.shards)]
    assert names == sorted(set(names))
    assert all(len(n) == 8 for n in names)


def test_no_plan_without_samples() -> None:
    assert Plan(0, 10).shards == 0


@pytest.mark.parametrize(
    ("size", "ordinal", "key"),
    [
        (10_000, 0, "000000000000"),
        (10_000, 12_345, "000000012345"),
        (10_000, 9_999, "000000009999"),
        (10_000, 30_000, "000000030000"),
        (200, 199, "00000000199"),
        (200, 200, "00000001000"),
        (200, 1_234, "00000006034"),
        (1, 0, "00000000"),
        (1, 17, "00000017"),
        (1000, 999_999, "00000999999"),
        (1001, 1001, "000000010000"),
    ],
)
def test_keys_are_img2datasets(size: int, ordinal: int, key: str) -> None:
    """`compute_key` of img2dataset's downloader, with DataComp's eight digits of shards."""
    assert Plan(ordinal + 1, size).key(ordinal) == key
    digits = math.ceil(math.log10(size))
    theirs = 10**digits * (ordinal // size) + ordinal % size
    assert key == f"{theirs:0{digits + 8}d}"


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Path]:
    """Two shards of 5 and 4 samples, some odd, embedded."""
    folder = tmp_path_factory.mktemp("job")
    odd = {"JPG": members(3)["jpg"], "seg.png": b"\0" * 700, "txt": b"caf\xe9"}
    first = [(f"00{i}", odd if i == 3 else members(i, f"caption {i}", uid=f"{i:032x}")) for i in range(5)]
    make_shard(folder, "00000", first)
    make_shard(folder, "00001", [(f"01{i}", members(10 + i, None)) for i in range(4)])
    by = encoder.load(encoder.resolve(recipe.Encoder(device="cpu", batch_size=4)))
    parts = []
    for shard in discovery.discover([str(folder)], True).shards:
        found = embed.embed(Path(shard.url), shard, by, embed.Limits(10**6, 1, 8), lambda _: None)
        output = embedded.put(str(folder / "store" / shard.id), found)
        parts.append(corpus.Part(shard, 0, output.samples, output.rows, output.metadata))
    return corpus.build(parts), folder


def contents(tar: Path) -> list[tuple[str, dict[str, bytes]]]:
    """The samples of a tar."""
    with open(tar, "rb") as file:
        entries = samples.index(tar).entries
        return [(s.key, s.members) for e in entries for s in [samples.load(file.fileno(), e, "")]]


GIDS = np.array([0, 2, 3, 4, 5, 8], np.int64)


def write(
    held: Corpus, gids: np.ndarray, url: Path, first: int = 0, size: int = 10
) -> tuple[Path, Path, Path]:
    """The files of an output shard."""
    output = write_shard(held, gids, first, Plan(100, size), str(url))
    tar, parquet, stats = (Path(ref.path) for ref in output.refs)
    assert output.samples == len(gids)
    assert (tar.name, parquet.name, stats.name) == (
        f"{url.name}.tar", f"{url.name}.parquet", f"{url.name}_stats.json",
    )  # fmt: skip
    return tar, parquet, stats


def test_members_byte_for_byte_under_new_keys(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    source = [s for name in ("00000", "00001") for s in contents(held[1] / f"{name}.tar")]
    tar, parquet, stats = write(held[0], GIDS, tmp_path / "00000001", first=10)
    found = contents(tar)
    assert [k for k, _ in found] == [f"{10 + i:09d}" for i in range(6)]
    assert [m for _, m in found] == [source[g][1] for g in GIDS]
    assert [list(m) for _, m in found] == [list(source[g][1]) for g in GIDS]
    listing = pq.read_table(parquet).to_pylist()
    assert [r["key"] for r in listing] == [k for k, _ in found]
    assert [r["source_key"] for r in listing] == [source[g][0] for g in GIDS]
    assert [r["shard"] for r in listing] == ["00000"] * 4 + ["00001"] * 2
    assert [r["source_url"] for r in listing] == [str(held[1] / f"{r['shard']}.tar") for r in listing]
    assert listing[0]["uid"] == f"{0:032x}"
    assert [r["caption"] for r in listing] == ["caption 0", "caption 2", "caf\ufffd", "caption 4", "", ""]
    assert {(r["width"], r["height"]) for r in listing} == {(64, 48)}
    read = json.loads(stats.read_bytes())
    assert (read["count"], read["successes"], read["status_dict"]) == (6, 6, {"success": 6})


def test_members_of_a_sample_are_adjacent(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    tar, _, _ = write(held[0], GIDS, tmp_path / "0")
    offsets = [m.offset for e in samples.index(tar).entries for m in e.members]
    assert offsets == sorted(offsets)


def test_writing_again_gives_the_same_bytes(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    first, second = write(held[0], GIDS, tmp_path / "a" / "0"), write(held[0], GIDS, tmp_path / "b" / "0")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_webdataset_reads_it(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    tar, _, _ = write(held[0], GIDS, tmp_path / "00000000")
    read = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [s["__key__"] for s in read] == [k for k, _ in contents(tar)]
    assert [s["jpg"] for s in read] == [next(iter(m.values())) for _, m in contents(tar)]


def test_output_can_be_used_as_input(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    """Also if two folders have shards of equal size and counts."""
    for i, folder in enumerate(("a", "b")):
        write(held[0], GIDS[i : i + 1], tmp_path / folder / "00000000")
    found = discovery.discover([str(tmp_path / "a"), str(tmp_path / "b")], True).shards
    assert [s.expected for s in found] == [1, 1]
    assert len({s.fingerprint for s in found}) == 2


def test_an_empty_shard(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    tar, parquet, _ = write(held[0], GIDS[:0], tmp_path / "0")
    assert contents(tar) == []
    assert len(pq.read_table(parquet)) == 0


def test_progress(held: tuple[Corpus, Path], tmp_path: Path) -> None:
    steps: list[int] = []
    write_shard(held[0], GIDS, 0, Plan(6, 6), str(tmp_path / "0"), steps.append)
    assert steps == list(range(1, 7))


def rewrite(folder: Path, change: dict[str, bytes] | None, keep: int = 5) -> None:
    """Writes shard 00000 again with another sample 2 or fewer samples."""
    parts = contents(folder / "00000.tar")[:keep]
    if change is not None:
        parts[2] = (parts[2][0], change)
    make_shard(folder, "00000", parts)


@pytest.mark.parametrize(
    ("change", "expected"),
    [("byte", r"bytes of sample 002 \(row 2\) have changed"), ("suffix", "have changed"),
     ("fewer", "has 2 samples"), ("order", "have changed"), ("caption", "have changed")],
)  # fmt: skip
def test_changed_input(held: tuple[Corpus, Path], tmp_path: Path, change: str, expected: str) -> None:
    (job, _), names = held, ("00000", "00001")
    folder = tmp_path / "changed"
    for name in names:
        make_shard(folder, name, contents(held[1] / f"{name}.tar"))
    old = contents(folder / "00000.tar")[2][1]
    if change == "byte":
        rewrite(folder, old | {"jpg": old["jpg"][:-1] + b"\0"})
    elif change == "suffix":
        rewrite(folder, {"jpeg" if s == "jpg" else s: d for s, d in old.items()})
    elif change == "caption":
        rewrite(folder, old | {"txt": b"another"})
    elif change == "fewer":
        rewrite(folder, None, keep=2)
    else:
        make_shard(folder, "00000", contents(folder / "00000.tar")[::-1])
    moved = corpus.build(replace(p, shard=shard_of(folder / f"{p.shard.id}.tar")) for p in job.parts)
    with pytest.raises(ChangedInput, match=expected):
        write(moved, GIDS, tmp_path / "out" / "00000000")
    assert list((tmp_path / "out").iterdir()) == []
    (folder / "00000.tar").write_bytes((folder / "00000.tar").read_bytes()[:2000])
    with pytest.raises(CorruptShard):
        write(moved, GIDS, tmp_path / "out" / "00000000")


def test_keep_array() -> None:
    uids = [f"{n:032x}" for n in (2**127 + 5, 7, 2**64, 2**64 - 1, 0, 2**128 - 1)]
    found = keep_array(pa.chunked_array([uids[:2], uids[2:]]))
    assert found.dtype == np.dtype("u8,u8")
    assert [(int(a) << 64) + int(b) for a, b in found.tolist()] == sorted(int(u, 16) for u in uids)
    again = keep_array(pa.chunked_array([], pa.string()))
    assert again.shape == (0,)


def test_many_uids_are_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    uids = [f"{n:032x}" for n in range(20, 0, -1)]
    whole = keep_array(pa.chunked_array([uids])), hashes(np.array(uids, np.bytes_), 7)
    monkeypatch.setattr(keep_lists, "SLICE", 3)
    monkeypatch.setattr(identity, "SLICE", 3)
    assert keep_array(pa.chunked_array([uids[:4], uids[4:]])).tolist() == whole[0].tolist()
    assert hashes(np.array(uids, np.bytes_), 7).tolist() == whole[1].tolist()
    assert identity.all_hex(np.array(uids, np.bytes_)) and not identity.all_hex(
        np.array([*uids, "x"], np.bytes_)
    )


@pytest.mark.parametrize("uid", ["", "7", "g" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "A" * 32, "é" * 32])
def test_keep_array_of_other_uids(uid: str) -> None:
    good, other = b"0" * 32, uid.encode()
    assert not identity.all_hex(np.array([good, other])) and identity.all_hex(np.array([good]))


def test_keep_file(tmp_path: Path) -> None:
    write_keep_npy(tmp_path / "keep.npy", pa.chunked_array([["f" * 32, "0" * 32]]))
    found = np.load(tmp_path / "keep.npy")
    assert found.dtype == np.dtype("u8,u8")
    assert found.tolist() == [(0, 0), (2**64 - 1, 2**64 - 1)]
