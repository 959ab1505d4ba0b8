"""Recall at a pair precision: thresholds chosen on one half of the images, reported on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.quality.images import VIEWS, Labelled, codes

PRECISION = 0.97
Scores = npt.NDArray[np.float32]  # (n, n) of images; larger: more alike


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs of images in one half of the groups."""

    score: npt.NDArray[np.float32]  # (m,)
    same: npt.NDArray[np.bool_]  # (m,) whether they show the same thing
    edit: npt.NDArray[np.int64]  # (m,) number of the edit of pairs of an original and its edit; else -1

    def threshold(self) -> float:
        """The lowest score such that of the pairs at or above it PRECISION are right; inf: none."""
        order = np.argsort(-self.score, kind="stable")
        score, right = self.score[order], np.cumsum(self.same[order])
        last = np.append(score[1:] != score[:-1], True)  # a threshold takes all pairs of equal score
        good = np.flatnonzero(last & (right >= PRECISION * np.arange(1, len(score) + 1)))
        return float(score[good[-1]]) if len(good) else float("inf")


@dataclass
class Tally:
    """Pairs of the same thing, and those of them that a threshold finds."""

    found: int = 0
    of: int = 0

    @property
    def recall(self) -> float:
        """The share that is found."""
        return self.found / self.of if self.of else float("nan")


@dataclass(frozen=True)
class Result:
    """What a method finds on a set of images, each half by the threshold of the other."""

    recall: float  # of all pairs
    precision: float  # that the thresholds reach on the half that they were not chosen on
    by_edit: dict[str, float]  # recall of pairs of an original and its edit


def halves(images: Sequence[Labelled], scores: Scores, views_count: bool) -> Iterator[Pairs]:
    """The pairs of each half. `views_count`: views of one object show the same thing; else left out."""
    group, edit = codes(i.group for i in images), codes(i.edit for i in images)
    half = np.array([i.half for i in images])
    view = np.array([i.group.startswith(VIEWS) and not views_count for i in images])
    for number in (0, 1):
        at = np.flatnonzero(half == number)
        i, j = np.triu_indices(len(at), 1)
        i, j = at[i], at[j]
        same = group[i] == group[j]
        # Views of one object are pairs of two originals; with their own edits they are the same image.
        known = ~(same & view[i] & (edit[i] == edit[j]))
        i, j, same = i[known], j[known], same[known]
        first = edit == 0  # the empty name sorts first
        of_original = np.where(first[i], edit[j], np.where(first[j], edit[i], 0))
        yield Pairs(scores[i, j], same, np.where(same & (of_original > 0), of_original, -1))


def measure(images: Sequence[Labelled], scores: Scores, views_count: bool = False) -> Result:
    """The recall of a method with these scores. Deterministic."""
    names = sorted({i.edit for i in images})
    first, second = halves(images, scores, views_count)
    whole, right, taken = Tally(), 0, 0
    by_edit = {name: Tally() for name in names if name}
    for chosen_on, reported in ((first, second), (second, first)):
        found = reported.score >= chosen_on.threshold()
        whole.found += int((found & reported.same).sum())
        whole.of += int(reported.same.sum())
        taken += int(found.sum())
        right += int((found & reported.same).sum())
        for number, name in enumerate(names):
            if name:
                mine = reported.edit == number
                by_edit[name].found += int((found & mine).sum())
                by_edit[name].of += int(mine.sum())
    return Result(
        whole.recall,
        right / taken if taken else 1.0,
        {name: tally.recall for name, tally in by_edit.items()},
    )
