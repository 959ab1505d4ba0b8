"""The score of decisions against a sample whose duplicates are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """How decisions compare with the truth. A share of nothing is 1."""

    precision: float  # of the dropped, represented in their own group
    recall: float  # of those that should go, dropped into their own group
    f1: float  # harmonic mean of the two
    planted: int  # samples that should go: group size - 1, summed
    dropped: int  # samples with a representative
    correct: int  # of these, with one in their own group


def score(truth: dict[str, Any], decisions: Iterable[tuple[str, bool, str | None]]) -> Score:
    """Compares decisions (uid, kept, uid that represents it or None) with `write`'s truth.

    Raises:
        ValueError: a uid that the truth does not know, one decided twice, or a sample that is kept
            and represented, or represented by itself.
    """
    groups: dict[str, int] = truth["groups"]
    planted = len(groups) - len(set(groups.values()))
    dropped = correct = 0
    seen: set[str] = set()
    for uid, kept, other in decisions:
        if uid not in groups or (other is not None and other not in groups):
            raise ValueError(f"no such uid in the truth: {uid}, represented by {other}")
        if other is not None and (kept or uid == other):
            raise ValueError(f"{uid} is kept={kept}, and yet represented by {other}")
        if uid in seen:
            raise ValueError(f"{uid} is decided twice")
        seen.add(uid)
        if other is not None:
            dropped += 1
            correct += groups[uid] == groups[other]
    precision = correct / dropped if dropped else 1.0
    recall = correct / planted if planted else 1.0
    both = precision + recall
    return Score(precision, recall, 2 * precision * recall / both if both else 0.0,
                 planted, dropped, correct)  # fmt: skip
