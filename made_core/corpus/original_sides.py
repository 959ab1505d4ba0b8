"""The sides of images before img2dataset resized them, where the samples' json tells them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from made_core.corpus.json_fields import Floats, numbers

COLUMNS = (
    "original_width",
    "original_height",
)  # of `corpus.tables`; img2dataset's names


def of(widths: Sequence[int | None], heights: Sequence[int | None], texts: Sequence[str | None]) -> Floats:
    """(n, 2) original width and height in pixels; those of the stored image where the json has not both.

    0 for an unreadable image whose json does not tell.

    Args:
        widths: n, of the stored images; None for an unreadable one. heights: likewise.
        texts: their jsons.
    """
    own = np.nan_to_num(np.array([widths, heights], float).T.reshape(-1, 2))
    told = numbers(texts, COLUMNS)
    with np.errstate(invalid="ignore", over="ignore"):  # 0 times infinity; sides of 1e300
        pixels = told[:, 0] * told[:, 1]
    good = (told > 0).all(axis=1) & (pixels < np.inf)
    return np.where(good[:, None], told, own)
