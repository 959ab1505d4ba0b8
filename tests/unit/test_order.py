"""One total order: each keep rule's values, ties by uid, then gid."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.corpus import clip_scores
from made_core.dedup import order
from made_core.recipe_dedup import Dedup

NAN = float("nan")


def walk(values: order.Values, uids: list[str]) -> list[int]:
    """The samples, first to last."""
    rank = order.ranks(values, np.array([u.encode() for u in uids], "S16"))
    assert sorted(rank.tolist()) == list(range(len(uids)))
    return list(np.argsort(rank).tolist())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 2.5, NAN]), st.sampled_from("abc")), max_size=20))
def test_ranks(samples: list[tuple[float, str]]) -> None:
    """By value, NaN last, then uid, then gid."""
    values, uids = [v for v, _ in samples], [u for _, u in samples]
    last = [(1.0, 0.0) if np.isnan(v) else (0.0, v) for v in values]
    expected = sorted(range(len(samples)), key=lambda i: (last[i], uids[i], i))
    assert walk(np.array(values, float), uids) == expected


def test_uids_go_by_bytes() -> None:
    """Not by length, not by locale."""
    uids = ["b", "ab", "a", "é", "B", "z"]
    assert [uids[i] for i in walk(np.zeros(6), uids)] == ["B", "a", "ab", "b", "z", "é"]


def test_hard_and_easy() -> None:
    """hard: farthest first; easy: nearest first; in both, equal distances go by uid."""
    distance, uids = np.array([0.1, 0.3, 0.2, 0.3]), ["a", "d", "b", "c"]
    encoded = np.array([u.encode() for u in uids])
    for keep, expected in (("hard", [3, 1, 2, 0]), ("easy", [0, 2, 3, 1])):
        values = order.without_metadata(Dedup(keep=keep), distance, encoded)
        assert values is not None
        assert walk(values, uids) == expected


def test_random_goes_by_seed_and_uid_alone() -> None:
    """The order depends only on the seed and the uid, not on the position of a sample."""
    uids = [f"u{i}" for i in range(40)]

    def walked(uids: list[str], seed: int) -> list[str]:
        values = order.without_metadata(
            Dedup(keep="random", seed=seed), np.zeros(40), np.array([u.encode() for u in uids])
        )
        assert values is not None
        return [uids[i] for i in walk(values, uids)]

    assert walked(uids, 1) == walked(uids[::-1], 1)
    assert walked(uids, 1) != walked(uids, 2)
    assert walked(uids, 1) != sorted(uids)


def test_largest() -> None:
    """Most pixels first; unknown sizes last."""
    fields: dict[str, list[Any]] = {
        "original_width": [10, 100, 0, 20],
        "original_height": [10, 1, 0, 20],
    }
    dedup = Dedup(keep="largest")
    assert order.columns(dedup) == tuple(fields)
    assert walk(order.of_metadata(dedup, fields, 4), ["b", "a", "c", "d"]) == [3, 1, 0, 2]
    big: dict[str, list[Any]] = {
        "original_width": [100_000, 100_000],
        "original_height": [100_000, 99_999],
    }
    assert walk(order.of_metadata(dedup, big, 2), ["b", "a"]) == [0, 1]


def test_largest_goes_by_the_original_size() -> None:
    """Of equal sizes the nearest to the centroid, then uid."""
    fields: dict[str, list[Any]] = {
        "original_width": [300, 10, 10, 300, 200],
        "original_height": [200, 11, 12, 200, 300],
    }
    found = order.of_metadata(Dedup(), fields, 5)
    assert (-found).tolist() == [60000, 110, 120, 60000, 60000]
    distance = np.array([0.2, 0, 0, 0.1, 0.2])
    uids = np.array([b"d", b"c", b"b", b"e", b"a"])
    values = order.values(Dedup(), found, distance, uids)
    assert values[0] == values[4]
    assert walk(values, ["d", "c", "b", "e", "a"]) == [3, 4, 0, 2, 1]


def test_auto_is_the_rules_own() -> None:
    assert Dedup().keep_rule == "largest"
    assert Dedup(rule="reference").keep_rule == "hard"
    assert Dedup(rule="reference", keep="easy").keep_rule == "easy"


@pytest.mark.parametrize(("prefer", "expected"), [("max", [1, 3, 0, 2]), ("min", [2, 0, 3, 1])])
def test_column(prefer: str, expected: list[int]) -> None:
    """Best first; samples without a value come last in both directions."""
    texts: list[str | None] = [json.dumps({"score": s}) for s in (0.5, 10, -3, 0.75)]
    nothing: list[Any] = [
        None, "{}", '{"score": null}', '{"score": "12"}', '{"score": true}', '{"score": [1]}',
        '{"score": NaN}', '{"score": 1' + "0" * 400 + "}", '{"score": -1' + "0" * 400 + "}",
    ]  # fmt: skip
    dedup = Dedup(keep="column", keep_column="score", keep_prefer=prefer)
    assert order.columns(dedup) == ("json",)
    values = order.of_metadata(dedup, {"json": texts + nothing}, 13)
    rest = list(range(4, 13))
    assert walk(values, [f"{i:02d}" for i in range(13)]) == expected + rest


@pytest.mark.parametrize("keep", ["hard", "easy", "random", "earliest", "largest", "clip_score", "column"])
def test_each_rule_takes_its_values_from_one_place(keep: str) -> None:
    """The distance and uids, or the metadata."""
    dedup = Dedup(keep=keep, keep_column="x" if keep == "column" else None)
    from_distance = order.without_metadata(dedup, np.zeros(1), np.array([b"a"])) is not None
    assert from_distance == (not order.columns(dedup))
    if from_distance:
        assert order.of_metadata(dedup, {}, 2).tolist() == [0, 0]


def test_clip_scores() -> None:
    """The best first; of several scores that of the larger model; without one, last."""
    texts: list[str | None] = [
        '{"clip_b32_similarity_score": 0.9, "clip_l14_similarity_score": 0.2}',
        '{"clip_b32_similarity_score": 0.25, "clip_l14_similarity_score": null}',
        '{"similarity": 0.3}',
        "{}",
    ]
    scores = clip_scores.of_json(texts).tolist()
    assert scores[:3] == [0.2, 0.25, 0.3]
    assert math.isnan(scores[3])
    values = order.of_metadata(Dedup(keep="clip_score"), {"clip_score": scores}, 4)
    assert walk(values, list("abcd")) == [2, 1, 0, 3]


def test_earlier_samples_come_first() -> None:
    ranks = order.ranks(np.array([3.0, 2.0, 1.0, 0.0]), np.array([b"a", b"b", b"c", b"d"]), earlier=2)
    assert ranks.tolist() == [1, 0, 3, 2]
