"""The score of decisions on a sample data set with known duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How decisions compare with the truth. Precision and recall are 1 if they are undefined."""

    precision: float  # correct / dropped
    recall: float  # correct / planted
    f1: float  # harmonic mean of precision and recall
    planted: int  # duplicates: the sum of group size - 1
    dropped: int  # samples with a representative
    correct: int  # of these, those represented by a sample of their own group


def score(groups: Mapping[str, int], decisions: Iterable[tuple[str, bool, str | None]]) -> Score:
    """Compares decisions with the true groups.

    Args:
        groups: uid -> group, from write.Truth.
        decisions: (uid, kept, uid of the representative or None).

    Raises:
        ValueError: an unknown uid, a uid decided twice, or a sample that is both kept and represented
            or represented by itself.
    """
    planted = len(groups) - len(set(groups.values()))
    dropped = correct = 0
    seen: set[str] = set()
    for uid, kept, other in decisions:
        if uid not in groups or (other is not None and other not in groups):
            raise ValueError(f"{uid}, represented by {other}: a uid is not in the groups")
        if other is not None and (kept or uid == other):
            raise ValueError(f"{uid} has kept={kept}, but is represented by {other}")
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
