"""benchmarks.quality: its measure and its edits; the hashes are in an environment of their own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import blank, edits
from benchmarks.quality.images import Labelled
from benchmarks.quality.measure import Pairs, measure
from made_core.embed import perceptual


def pairs(scores: list[float], same: list[bool]) -> Pairs:
    return Pairs(np.array(scores, np.float32), np.array(same), np.full(len(scores), -1))


def test_the_threshold_is_the_lowest_that_is_precise() -> None:
    right = [0.9] * 97 + [0.8] * 3
    assert pairs([*right, 0.7], [True] * 100 + [False]).threshold() == pytest.approx(0.7)
    assert pairs([*right, 0.85, 0.85, 0.85, 0.85], [True] * 100 + [False] * 4).threshold() == pytest.approx(
        0.9
    )
    assert pairs([0.9, 0.9], [True, False]).threshold() == float("inf"), "equal scores are found together"


def labelled(groups: int) -> list[Labelled]:
    return [
        Labelled(Image.new("RGB", (8, 8)), f"group {g}", edit)
        for g in range(groups)
        for edit in ("", "a", "b")
    ]


def test_each_half_is_judged_by_the_threshold_of_the_other() -> None:
    images = labelled(40)
    assert {i.half for i in images} == {0, 1}
    n = len(images)
    scores = np.zeros((n, n), np.float32)
    for i, one in enumerate(images):
        for j, other in enumerate(images):
            if one.group == other.group:
                scores[i, j] = 0.2 if "b" in (one.edit, other.edit) else 0.9
    found = measure(images, scores)
    assert (found.recall, found.by_edit) == (1.0, {"a": 1.0, "b": 1.0})
    scores[scores < 0.5] = 0  # as between different images
    found = measure(images, scores)
    assert found.by_edit == {"a": 1.0, "b": 0.0}
    assert found.recall == pytest.approx(1 / 3)
    assert found.precision == 1.0


def test_views_of_one_object_count_only_if_asked() -> None:
    images = [Labelled(Image.new("RGB", (8, 8)), f"ukbench:{g}") for g in range(40) for _ in range(2)]
    scores = np.zeros((80, 80), np.float32)
    assert np.isnan(measure(images, scores).recall)
    assert measure(images, scores, views_count=True).recall == 0.0


def test_edits_are_the_same_every_time_and_change_the_image() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    original = Labelled(Image.fromarray(noise).resize((240, 180)), "one")
    once, again = (list(edits.edited(original)) for _ in "ab")
    assert [one.edit for one in once] == ["", *edits.EDITS]
    for one, other in zip(once, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert bool(one.edit) == (one.image.tobytes() != original.image.tobytes())


def test_little_to_see_pairs_with_little() -> None:
    for row in blank.look():
        assert row.pairs <= row.allowed, row
    assert perceptual.DEFAULT_EPS <= 0.15
