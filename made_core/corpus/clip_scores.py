"""CLIP scores of samples: those that the run computed, else those that the samples' json has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

COLUMN = "clip_score"  # that `corpus.tables.read` gives
TABLE = "captions"  # the corpus's table of computed scores (embed.captions.SCHEMA)
# Names in a sample's json: DataComp's, then LAION's. The first one present is used.
FIELDS = ("clip_l14_similarity_score", "clip_b32_similarity_score", "similarity")


def of_json(texts: Sequence[str | None]) -> list[float | None]:
    """The scores in samples' json; None without one."""
    return [None if (score := number(fields(text), FIELDS)) != score else score for text in texts]


def fields(text: str | None) -> dict[str, Any]:
    """The fields of a stored json, which is an object; {} without one, or if it is nested too deep."""
    try:
        found: dict[str, Any] = json.loads(text) if text else {}
    except RecursionError:  # Python before 3.12 counts the frames below too; older versions stored such jsons
        return {}
    return found


def number(known: Mapping[str, Any], names: Sequence[str]) -> float:
    """The first of the fields `names` that is a number, else NaN."""
    for value in map(known.get, names):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer with hundreds of digits
                return float(value)
    return float("nan")
