"""CLIP scores of samples: those that the run computed, else those that the samples' json has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from made_core.corpus.json_fields import Floats, numbers

COLUMN = "clip_score"  # that `corpus.tables.read` gives
TABLE = "captions"  # the corpus's table of computed scores (embed.captions.SCHEMA)
# Columns of DataComp's metadata, then of LAION's. A sample's json has those that img2dataset was told to save
# (save_additional_columns; DataComp's own downloader saves only uid). The first one with a number is used.
FIELDS = ("clip_l14_similarity_score", "clip_b32_similarity_score", "similarity")


def of_json(texts: Sequence[str | None]) -> Floats:
    """(n,) the scores in n samples' json; NaN without one."""
    found = numbers(texts, FIELDS)
    first = np.argmin(np.isnan(found), axis=1)
    result: Floats = found[np.arange(len(found)), first]
    return result
