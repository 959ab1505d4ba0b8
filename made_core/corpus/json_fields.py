"""Numbers in the stored jsons of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.json import ParseOptions, ReadOptions, read_json

Floats = npt.NDArray[np.float64]
# Jsons read at a time: bounds memory, and how many are read one by one for one that arrow refuses.
SLICE = 1024


def numbers(texts: Sequence[str | None], names: Sequence[str]) -> Floats:
    """(n, len(names)) the fields `names` of n stored jsons; NaN where a json has no number there.

    Args:
        texts: each an object, or None.
    """
    slices = [_of_slice(texts[a : a + SLICE], names) for a in range(0, len(texts), SLICE)]
    return np.concatenate([np.zeros((0, len(names))), *slices])


def _of_slice(texts: Sequence[str | None], names: Sequence[str]) -> Floats:
    try:
        found = _by_arrow(texts, names)
    except (pa.ArrowInvalid, OverflowError):  # a field of another type, or repeated; 2 GiB of text
        return _one_by_one(texts, names)  # arrow refuses all jsons for one of them
    # An integer with hundreds of digits is infinite for arrow, and no number for us.
    return _one_by_one(texts, names) if np.isinf(found).any() else found


def _by_arrow(texts: Sequence[str | None], names: Sequence[str]) -> Floats:
    """See `numbers`; eight times as fast as `_one_by_one`. Raises ArrowInvalid."""
    lines = [(text or "{}").replace("\n", " ").replace("\r", " ") for text in texts]
    data = "\n".join(lines).encode()
    options = ParseOptions(pa.schema([(n, pa.float64()) for n in names]), unexpected_field_behavior="ignore")
    reading = ReadOptions(use_threads=False, block_size=len(data) + 1)
    table = read_json(pa.BufferReader(data), reading, options)
    if len(table) != len(texts):
        raise pa.ArrowInvalid(f"{len(texts)} jsons, {len(table)} rows")
    columns = [table[name].to_numpy() for name in names]
    result: Floats = np.stack(columns, axis=1).astype(np.float64)
    return result


def _one_by_one(texts: Sequence[str | None], names: Sequence[str]) -> Floats:
    result = np.array([[_number(known, n) for n in names] for known in map(fields, texts)], np.float64)
    return result.reshape(len(texts), len(names))


def fields(text: str | None) -> dict[str, Any]:
    """The fields of a stored json, which is an object; {} without one, or if it is nested too deep."""
    try:
        found: dict[str, Any] = json.loads(text) if text else {}
    except RecursionError:  # Python before 3.12 counts the frames below too; older versions stored such jsons
        return {}
    return found


def _number(known: Mapping[str, Any], name: str) -> float:
    value = known.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # an integer with hundreds of digits
            return float(value)
    return float("nan")
