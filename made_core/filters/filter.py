"""What a filter is, and the columns that several filters read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from made_core.reasons import Reason

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Filter:
    """Drops the samples that fail a bound of the recipe. A bound of None turns it off: the default."""

    field: str  # the bound's name in the recipe, under `filters`
    type: Any  # of the bound, with its limits: Annotated[int, Field(ge=1)]
    description: str  # a sentence on the bound, with its unit
    example: Any  # a bound, for the annotated recipe
    # That `failed` reads: of the stored metadata (embed.metadata.SCHEMA), or `<table>.<column>` of a
    # further table of the shards (corpus.tables).
    columns: tuple[str, ...]
    failed: Callable[[pa.Table, Any], Flags]  # (table of n rows with these columns, bound) -> (n,)
    reason: Reason  # of those that fail


def sides(table: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n,) the shorter and (n,) the longer side of each image, pixels; 0 where it is unreadable."""
    width, height = (pc.fill_null(table[name], 0).to_numpy().astype(np.int64) for name in ("width", "height"))
    return np.minimum(width, height), np.maximum(width, height)


def captions(table: pa.Table) -> list[str]:
    """The n captions; an empty one where a sample has none."""
    return [caption or "" for caption in table["caption"].to_pylist()]
