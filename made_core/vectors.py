"""Stored float16 rows as float64 unit rows, and their cosine. Imports numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MARGIN = 1e-5  # float32 products of unit rows err by 4e-7 (measured)

Rows = npt.NDArray[np.float16]


def unit64(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(n, dim) stored rows converted to float64 and normalised; these define all similarities.

    Rows must not be zero.
    """
    wide = np.asarray(rows, np.float64)
    result: npt.NDArray[np.float64] = wide / np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return result


def cosine(left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    """(n,) float64 cosines of the stored rows left[i] and right[i], both (n, dim) float16."""
    product: npt.NDArray[np.float64] = np.einsum("ij,ij->i", unit64(left), unit64(right))
    return product
