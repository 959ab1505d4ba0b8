"""Classes of equal bytes, and a training sample that does not depend on the order of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.embed import metadata
from made_core.types import Shard
from tests.support.factories import put_embedded


def stored(folder: Path, name: str, records: list[dict[str, Any]]) -> corpora.Part:
    """A shard's files in the store, from the fields used here."""
    table = pa.Table.from_pylist(records, schema=metadata.SCHEMA)
    rows = np.ones((len(records), 4), np.float16)
    output = put_embedded(str(folder / name), rows, table)
    shard = Shard(name, f"{name}.tar", name * 32, 1, None)
    return corpora.Part(shard, 0, len(records), output.rows, output.metadata)


def halves(digests: list[bytes]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Digests as `canonicals` expects them."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "aa", "é", "z" * 20]),
            st.sampled_from([bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), b"\1" * 8 + bytes(8)]),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_firsts(samples: list[tuple[str, bytes, bool]]) -> None:
    """The readable sample of equal bytes with the lowest uid, then gid; none for the unreadable."""
    uids = np.array([u.encode() for u, _, _ in samples], "S24")
    readable = np.array([r for _, _, r in samples], bool)
    first = identity.canonicals(uids, halves([d for _, d, _ in samples]), readable)
    for i, (_, digest, ok) in enumerate(samples):
        same = [m for m, (_, d, r) in enumerate(samples) if r and d == digest]
        expected = min(same, key=lambda m: (samples[m][0].encode(), m)) if ok else -1
        assert first[i] == expected


def test_build(tmp_path: Path) -> None:
    """Across shards; digests that differ only in a trailing zero byte; unreadable rows separate."""
    end = b"\7" * 15
    one: list[dict[str, Any]] = [
        {"uid": "m", "image_digest": end + b"\0"},
        {"uid": "b", "image_digest": end + b"\1"},
        {"uid": "a", "image_digest": end + b"\0", "error": "broken"},
        {"uid": "x", "image_digest": None, "error": "no image"},
    ]
    two: list[dict[str, Any]] = [
        {"uid": "c", "image_digest": end + b"\0"},
        {"uid": "longer than any uid of the first shard", "image_digest": end + b"\1"},
        {"uid": "y", "image_digest": bytes(16)},
    ]
    corpus = corpora.build([stored(tmp_path, str(n), records) for n, records in enumerate([one, [], two])])
    built = identity.build(corpus)
    assert built.canonical.tolist() == [4, 1, -1, -1, 4, 1, 6]
    assert built.images.tolist() == [1, 4, 6]
    assert built.uids[5] == b"longer than any uid of the first shard"


def test_nothing(tmp_path: Path) -> None:
    """No shards, and no readable sample."""
    empty = identity.build(corpora.build([]))
    assert len(empty.uids) == len(empty.canonical) == len(empty.images) == 0
    assert len(identity.drawn(empty, 10, 0)) == 0
    broken = [{"uid": "a", "image_digest": None, "error": "no image"}]
    alone = identity.build(corpora.build([stored(tmp_path, "0", broken)]))
    assert alone.canonical.tolist() == [-1]
    assert len(identity.drawn(alone, 10, 0)) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 2**31 - 1))
def test_what_is_drawn_does_not_depend_on_order(seed: int, size: int, key: int) -> None:
    """Samples in any order give the same uids in the same order; fewer are a prefix."""
    generator = np.random.default_rng(seed)
    uids = np.array([b"u%d" % i for i in range(50)])
    digests = generator.integers(0, 30, (50, 2)).astype(np.uint64) // 6
    readable = generator.random(50) < 0.9

    def chosen(order: np.ndarray[Any, np.dtype[np.int64]], size: int) -> list[bytes]:
        first = identity.canonicals(uids[order], digests[order], readable[order])
        built = identity.Identities(uids[order], first)
        picked = identity.drawn(built, size, key)
        assert set(picked.tolist()) <= set(built.images.tolist())
        return list(built.uids[picked].tolist())

    plain = chosen(np.arange(50), size)
    classes = len({tuple(d) for d, r in zip(digests.tolist(), readable.tolist(), strict=True) if r})
    assert len(plain) == len(set(plain)) == min(size, classes)
    assert chosen(generator.permutation(50), size) == plain
    assert chosen(np.arange(50), size // 2) == plain[: size // 2]


def test_another_seed_another_sample() -> None:
    """The sample is spread by the hash, not by the uid's order."""
    uids = np.array([b"%04d" % i for i in range(1000)])
    built = identity.Identities(uids, np.arange(1000))
    one, two = (set(identity.drawn(built, 100, s).tolist()) for s in (0, 1))
    assert len(one & two) < 40
    assert 300 < np.mean(list(one)) < 700


def test_hashes() -> None:
    """Known values: the training sample and `keep: random` must not change with a version."""
    uids = np.array([b"a", b"longer"])
    assert identity.hashes(uids, 0).tolist() == [0x3A030DABA6EC79B9, 0xDF85429C83D2AF22]
    assert identity.hashes(uids, 1).tolist() == [0x3D8416FC1E8BDB6E, 0x6FC73DCBA45B6477]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_slices_of_uids_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither hashes nor what is found of the last uid."""
    uids = np.array([b"%032x" % n for n in range(5)])
    with monkeypatch.context() as patch:
        patch.setattr(identity, "SLICE", size)
        found = identity.hashes(uids, 3)
        assert found.tolist() == [identity.hashes(uids[n : n + 1], 3)[0] for n in range(5)]
    monkeypatch.setattr(identity, "SLICE", size)
    assert identity.all_hex(uids) and identity.all_hex(uids[:0])
    for other in (b"%032X" % 10, b"%031x" % 4, b"%033x" % 4):
        assert not identity.all_hex(np.array([*uids.tolist(), other]))


@pytest.mark.parametrize("uids", [["ab", "cd", "ef", "gh"], ["a", "", "ccc", "d"], ["", "", "", ""]])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_uids_of_a_slice(uids: list[str], start: int) -> None:
    """Of a table that arrow has cut, of equal or of different widths."""
    found = identity._bytes(pa.array(uids).slice(start, 2))
    assert found.tolist() == [uid.encode() for uid in uids[start : start + 2]]
