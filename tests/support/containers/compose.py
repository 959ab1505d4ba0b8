"""A compose file with its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from compose_spec.models import ComposeSpecification

VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")
UNITS = {"s": 1, "m": 60, "h": 3600}


def load(path: Path, variables: Mapping[str, str]) -> tuple[ComposeSpecification, dict[str, Any]]:
    """The file with its variables filled in: checked against the specification, and as plain values.

    Raises ValueError for a variable without a value, a default or an error of its own, and as `check` does.
    """
    parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = {k: _filled(v, variables) for k, v in parsed.items() if not k.startswith("x-")}
    return check(values), values


def check(values: Mapping[str, Any]) -> ComposeSpecification:
    """The file as the specification reads it. Raises ValueError for a wrong type or an unknown field."""
    checked = ComposeSpecification.model_validate(values)
    known = checked.model_dump(
        by_alias=True, exclude_unset=True
    )  # without what the specification does not know
    if unknown := list(_missing(values, known, "")):
        raise ValueError(f"not in the specification of Compose: {', '.join(unknown)}")
    return checked


def _missing(given: Any, known: Any, place: str) -> Iterator[str]:
    """The places in `given` of fields that `known` does not have."""
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for key, value in given.items():
            if key in known:
                yield from _missing(value, known[key], f"{place}{key}.")
            else:
                yield f"{place}{key}"
    elif isinstance(given, list) and isinstance(known, list):
        for one, other in zip(given, known, strict=True):
            yield from _missing(one, other, place)


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """A YAML value with the variables in its strings filled in."""
    if isinstance(value, dict):
        return {k: _filled(v, variables) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, variables) for v in value]
    return VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, rest = found[1], found[2], found[3]
    if variables.get(name):
        return variables[name]
    if operator is None or operator.endswith("?"):
        raise ValueError(f"{name}: {rest or 'no value and no default'}")
    return rest


def seconds(text: str) -> float:
    """Of `10s` or `1m`."""
    return float(text[:-1]) * UNITS[text[-1]]
