"""A shard's fingerprint by its definition, and an order of shards that names and contents alone decide."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from made_core.ingest import discovery
from tests.support.factories import make_shard, members

EDGE = 1 << 16


@pytest.mark.parametrize("size", [1, 2 * EDGE, 2 * EDGE + 1, 3 * EDGE, 5 * EDGE])
@pytest.mark.parametrize("stats", [b"", b'{"successes": 1}'])
def test_a_fingerprint_is_of_size_stats_head_and_tail(tmp_path: Path, size: int, stats: bytes) -> None:
    """By another one, stored units would be computed again, and `extends` would find other shards."""
    data = random.Random(size).randbytes(size)
    (tmp_path / "0.tar").write_bytes(data)
    if stats:
        (tmp_path / "0_stats.json").write_bytes(stats)
    edges = data if size <= 2 * EDGE else data[:EDGE] + data[-EDGE:]
    expected = hashlib.blake2b(b"%d\n" % size + stats + edges, digest_size=16).hexdigest()
    [shard] = discovery.discover([str(tmp_path)], require_stats=bool(stats)).shards
    assert (shard.fingerprint, shard.expected) == (expected, 1 if stats else None)


@pytest.mark.parametrize("successes", [0, 2**31 - 1])
def test_the_fewest_and_most_samples_of_a_shard(tmp_path: Path, successes: int) -> None:
    make_shard(tmp_path, "0", [])
    (tmp_path / "0_stats.json").write_bytes(b'{"successes": %d}' % successes)
    assert discovery.discover([str(tmp_path)], True).shards[0].expected == successes


def test_shards_of_one_name_go_by_content_wherever_they_are(tmp_path: Path) -> None:
    """A sample's number follows from the order, so folders that are renamed must not change it."""
    orders = []
    for place, names in (("x", "abc"), ("y", "bca"), ("z", "cab")):
        for content, name in enumerate(names):
            make_shard(tmp_path / place / name, "00000", [("0", members(content))])
        sources = [str(tmp_path / place / name) for name in names]
        orders.append([(s.id, s.fingerprint) for s in discovery.discover(sources, True).shards])
    assert orders[0] == orders[1] == orders[2] and len(set(orders[0])) == 3


def test_the_stats_of_a_tar_whose_folder_is_named_like_one(tmp_path: Path) -> None:
    make_shard(tmp_path / "old.tar.d", "a.tar.b", [("0", members(0))])
    [shard] = discovery.discover([str(tmp_path / "old.tar.d")], True).shards
    assert (shard.id, shard.expected) == ("a.tar.b", 1)


def fingerprint(tar: Path) -> str:
    """Of one tar, with or without stats."""
    return discovery.discover([str(tar)], require_stats=False).shards[0].fingerprint


@pytest.mark.parametrize("at", [0, 70_000, -1])
@pytest.mark.parametrize("finished", [True, False])
def test_fingerprint_depends_on_head_and_tail(tmp_path: Path, at: int, finished: bool) -> None:
    """Not all stats contain times, and many tars have the same padded size."""
    tar = make_shard(tmp_path, "0", [("0", {"jpg": bytes(300_000)})], finished=finished)
    before = fingerprint(tar)
    data = bytearray(tar.read_bytes())
    data[at] ^= 1
    tar.write_bytes(data)
    assert (fingerprint(tar) != before) == (at != 70_000)


@pytest.mark.parametrize("size", [0, 1, EDGE, EDGE + 1, 2 * EDGE, 2 * EDGE + 1])
def test_fingerprint_of_any_size(tmp_path: Path, size: int) -> None:
    tar = tmp_path / "0.tar"
    tar.write_bytes(bytes(size))
    first = fingerprint(tar)
    tar.write_bytes(bytes(size + 1))
    assert fingerprint(tar) != first
