"""The filters, and all reasons for which a sample is dropped.

To add a filter, add a file here that defines `FILTER`, and list it in `FILTERS`. The recipe field, the
report, `made why` and the generated documents (`make docs`) take everything from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from made_core.filters import max_aspect, min_chars, min_clip_score, min_side, min_words
from made_core.filters.filter import Flags
from made_core.reasons import BUILTIN, KEPT, UNREADABLE, Codes, Reason

FILTERS = (  # in the order applied: a sample that fails several gets the reason of the first
    min_side.FILTER,
    max_aspect.FILTER,
    min_words.FILTER,
    min_chars.FILTER,
    min_clip_score.FILTER,
)


def checked(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    """The reasons by ascending code.

    Raises:
        ValueError: a code is not between 0 and 127, or two reasons have the same code or name.
    """
    seen: dict[int | str, Reason] = {}
    for reason in reasons:
        if not 0 <= reason.code <= 127:
            raise ValueError(f"reason {reason.name} has the code {reason.code}, allowed: 0 to 127")
        for key in (reason.code, reason.name):
            if key in seen:
                raise ValueError(f"two reasons share {key!r}: {seen[key]} and {reason}; change the new one")
            seen[key] = reason
    return tuple(sorted(reasons, key=lambda reason: reason.code))


REASONS = checked([*BUILTIN, *(f.reason for f in FILTERS)])
_BY_CODE = {reason.code: reason for reason in REASONS}
_BY_NAME = {reason.name: reason for reason in REASONS}


def by_code(code: int) -> Reason:
    """The reason of a stored code. Raises ValueError if no reason has it."""
    if code not in _BY_CODE:
        known = ", ".join(map(str, _BY_CODE))
        raise ValueError(
            f"no reason has the code {code}, known: {known}; was it written by a later version of made?"
        )
    return _BY_CODE[code]


def by_name(name: str) -> Reason | None:
    """The reason with this name; None if this version of made does not know it."""
    return _BY_NAME.get(name)


def meaning(reason: Reason, bounds: Mapping[str, object]) -> str:
    """The reason's meaning, with the bound of its filter. `bounds`: by the filters' fields."""
    fields = [f.field for f in FILTERS if f.reason == reason and f.field in bounds]
    return f"{reason.meaning} ({bounds[fields[0]]})" if fields else reason.meaning


def names(codes: Codes) -> list[str | None]:
    """The n names of the codes' reasons; None for KEPT. Raises ValueError for an unknown code."""
    return [None if code == KEPT else by_code(code).name for code in codes.tolist()]


def columns(settings: object) -> list[str]:
    """The columns that `apply` reads with these `settings`."""
    used = [name for f in FILTERS if getattr(settings, f.field) is not None for name in f.columns]
    return list(dict.fromkeys(["error", *used]))


def apply(table: pa.Table, settings: object) -> Codes:
    """(n,) code of the first filter that each sample fails, KEPT if none; UNREADABLE precedes all filters.

    Args:
        table: n rows with `columns(settings)`.
        settings: the recipe's `filters`: one attribute per filter, named by its `field`; None: off.
    """
    result: Codes = np.full(len(table), KEPT, np.int8)

    def drop(failed: Flags, reason: Reason) -> None:
        result[failed & (result == KEPT)] = reason.code

    drop(~pc.is_null(table["error"]).to_numpy(), UNREADABLE)
    for f in FILTERS:
        bound = getattr(settings, f.field)
        if bound is not None:
            drop(f.failed(table, bound), f.reason)
    return result
