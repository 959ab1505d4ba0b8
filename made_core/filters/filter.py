"""The definition of a filter, and helpers that several filters use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from made_core.reasons import Reason

Flags = npt.NDArray[np.bool_]
Sides = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Filter:
    """Drops samples that do not meet a bound of the recipe. Without a bound (None, the default) it is off."""

    field: str  # name of the bound in the recipe, under `filters`
    type: Any  # of the bound, with its limits, such as Annotated[int, Field(ge=1)]
    description: str  # a sentence on the bound, with its unit
    example: Any  # a bound, for the annotated recipe
    # The columns that `failed` reads: what `corpus.tables.read` gives, such as those of the stored
    # metadata (embed.metadata.SCHEMA), or `<table>.<column>` of another table of the shards.
    columns: tuple[str, ...]
    failed: Callable[[pa.Table, Any], Flags]  # (table of n rows with these columns, bound) -> (n,)
    reason: Reason  # of the samples that fail


ORIGINAL_SIDES = ("original_width", "original_height")  # columns that `sides` reads


def sides(table: pa.Table) -> tuple[Sides, Sides]:
    """(n,) shorter side and (n,) longer side of each image in pixels; 0 for an unreadable one.

    Of the original image: img2dataset stores images smaller, and cropped ones in another shape.
    """
    width, height = (table[name].to_numpy() for name in ORIGINAL_SIDES)
    return np.minimum(width, height), np.maximum(width, height)


def captions(table: pa.Table) -> list[str]:
    """The n captions; empty for a sample without one."""
    return [caption or "" for caption in table["caption"].to_pylist()]
