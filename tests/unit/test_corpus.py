"""The corpus: ordered parts, put once, and rows gathered from all parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_core.corpus import corpus as corpora
from made_core.corpus.corpus import Corpus, Part
from made_core.errors import DamagedFile
from made_core.io import files
from made_core.io.arrays import put_array
from made_core.types import FileRef, Shard


def test_gather(place: str) -> None:
    """Rows of many parts, in the requested order."""
    parts = []
    for number in range(20):
        rows = np.arange(number * 300, number * 300 + 300, dtype=np.int64)
        stored = put_array(
            f"{place}/{number}.npy", np.stack([rows % 1000, rows // 1000], 1).astype(np.float16)
        )
        parts.append(Part(Shard(str(number), "", "", 0, None), 0, 300, stored, FileRef("", 0, "", "")))
    corpus: Corpus = corpora.build(parts)
    gids = np.random.default_rng(1).permutation(6000)[:2000]
    found = corpus.gather(gids)
    assert np.array_equal(found[:, 0] + found[:, 1].astype(int) * 1000, gids)
    assert corpus.gather(gids[:0]).shape == (0, 0)
    files.remove(f"{place}/7.npy")
    with pytest.raises(DamagedFile):
        corpus.gather(gids)


def test_a_damaged_row_is_not_gathered(place: str) -> None:
    rows = put_array(f"{place}/rows.npy", np.zeros((3000, 512), np.float16))
    corpus = corpora.build([Part(Shard("a", "", "", 0, None), 0, 3000, rows, FileRef("", 0, "", ""))])
    data = bytearray(files.read(rows.path))
    data[2 << 20] ^= 1
    files.put_bytes(rows.path, bytes(data))
    assert corpus.gather(np.array([2000, 5])).shape == (2, 512)
    with pytest.raises(DamagedFile, match=r"rows\.npy has crc32 \w+ in block 2 "):
        corpus.gather(np.array([5, 2100]))


def test_put_and_read(place: str) -> None:
    """Every field of every file reference is read back; shards without samples are left out."""
    parts = [
        Part(
            Shard(f"{n:05d}", f"/in/{n:05d}.tar", f"{n:032x}", 10 * n, n if n % 2 else None),
            0,
            n % 3,
            FileRef(f"/store/{n}.npy", n << 20, f"{n:032x}", f"{n:08x}" * n),
            FileRef(f"/store/{n}.parquet", n, f"{n + 9:032x}", "01234567"),
            {"score": FileRef(f"/store/{n}.score.parquet", n, f"{n + 7:032x}", "")} if n > 4 else {},
        )
        for n in range(7)
    ]
    corpus = corpora.build(parts)
    ref = corpora.put(place, corpus)
    assert corpora.read(ref) == corpus
    assert [p.start for p in corpus.parts] == [0, 1, 3, 4]
    assert corpora.put(place, corpora.build(parts[:3])).path != ref.path


def test_a_corpus_that_extends_another(tmp_path: Path) -> None:
    """Its batches are of new parts only, and the parts known before stay those."""
    pointer = FileRef("/store/a", 5, "0" * 32, "0" * 8)
    parts = [Part(Shard(f"{n}", "", f"{n}", 1, None), 0, n + 1, pointer, pointer) for n in range(5)]
    grown = corpora.build(parts[2:], corpora.build(parts[:2]))
    assert [p.start for p in grown.parts] == [0, 1, 3, 6, 10]
    assert (grown.known, grown.begin, grown.samples) == (2, 3, 15)
    assert [p.shard.id for p in grown.new] == ["2", "3", "4"]
    assert grown.batches(2) == ["2-4", "4-5"]
    assert [p.shard.id for key in grown.batches(2) for p in grown.batch(key)] == ["2", "3", "4"]
    assert corpora.read(corpora.put(str(tmp_path), grown)) == grown
    assert grown.key != corpora.build(parts).key, "the earlier parts were clustered without the others"


def test_the_key_depends_on_names_and_contents() -> None:
    def key(name: str = "a", rows: str = "0", metadata: str = "1") -> str:
        one, two = (FileRef("/store/a", 5, digest * 32, "") for digest in (rows, metadata))
        return corpora.build([Part(Shard(name, "", "", 1, None), 0, 1, one, two)]).key

    assert len({key(), key("b"), key(rows="2"), key(metadata="2")}) == 4


def test_further_tables_are_added_and_left_out_by_name() -> None:
    pointer = FileRef("/store/a", 5, "0" * 32, "0" * 8)
    part = Part(Shard("a", "", "f" * 32, 1, None), 0, 1, pointer, pointer)
    one = corpora.build([part]).with_table("one", {"f" * 32: pointer, "e" * 32: pointer})
    two = one.with_table("two", {"f" * 32: replace(pointer, digest="1" * 32)})
    assert set(two.parts[0].tables) == {"one", "two"}
    assert two.with_table("three", {"e" * 32: pointer}) == two
    assert two.without_table("two") == one and one.without_table("one").parts == (part,)
    other = one.with_table("two", {"f" * 32: pointer})
    assert len({corpus.tables_key for corpus in (one, two, other)}) == 3


def test_put_again(tmp_path: Path) -> None:
    """An existing corpus is reused; a damaged one is put again."""
    pointer = FileRef("/store/a", 5, "0" * 32, "0" * 8)
    corpus = corpora.build([Part(Shard("a", "/in/a.tar", "0" * 32, 1, 1), 0, 1, pointer, pointer)])
    ref = corpora.put(str(tmp_path), corpus)
    path = Path(ref.path)
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert corpora.put(str(tmp_path), corpus) == ref
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    path.write_bytes(before[1][:-1] + b"x")
    with pytest.raises(DamagedFile, match="digest"):
        corpora.read(ref)
    assert corpora.put(str(tmp_path), corpus) == ref
    assert corpora.read(ref) == corpus
