"""Why a sample is not in the output. Reasons of filters are in made_core/filters, one file each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]  # (n,) codes of reasons, or KEPT
KEPT = -1  # the code of a sample without a reason


@dataclass(frozen=True)
class Reason:
    """Why a sample was dropped. The report, `made why` and the documents show these texts."""

    code: int  # 0 to 127, stored in decisions: never change it or reuse it for another reason
    name: str  # in decisions, accounts and summary
    label: str  # a title of one to three words
    meaning: str  # a clause: when a sample is dropped for this reason


UNREADABLE = Reason(
    0, "unreadable", "Unreadable", "no image could be decoded, or the embedding is not a number"
)
REPEATED_UID = Reason(
    1, "repeated_uid", "Repeated uid", "an earlier sample has the same uid: the same upstream row"
)
EXACT_COPY = Reason(2, "exact_copy", "Exact copy", "another sample has the same image bytes")
PLACEHOLDER = Reason(
    3,
    "placeholder",
    "Placeholder",
    "the same image bytes appear under at least dedup.placeholder_captions different captions",
)
NEAR_DUPLICATE = Reason(4, "near_duplicate", "Near-duplicate", "a kept sample is within eps")

BUILTIN = (UNREADABLE, REPEATED_UID, EXACT_COPY, PLACEHOLDER, NEAR_DUPLICATE)
DUPLICATES = (EXACT_COPY, PLACEHOLDER, NEAR_DUPLICATE)  # a kept sample shows the same or nearly the same
