"""Reads a recipe from a YAML file, the command line or a request; every error is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from made_core.errors import RecipeError
from made_core.recipe import Recipe


def load(path: str | None, overrides: dict[str, Any], sets: list[str]) -> Recipe:
    """The recipe of a YAML file (None: all defaults) with `overrides`, then `a.b=value` settings applied.

    Raises:
        RecipeError: the file does not exist, is not valid YAML, or a field is invalid; names field
            and bound.
    """
    values = _read(path) if path else {}
    values.update({name: value for name, value in overrides.items() if value is not None})
    for item in sets:
        name, sep, text = item.partition("=")
        if not sep:
            raise RecipeError(f"--set {item}: expected field=value, as in dedup.eps=0.05")
        _put(values, name.strip(), _yaml(text, f"--set {item}"))
    return validate(values, path or "the command line")


def validate(values: dict[str, Any], place: str) -> Recipe:
    """`values` as a Recipe; raises RecipeError naming each invalid field, its value and what is allowed."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{place}: " + "; ".join(_sentence(e) for e in error.errors())) from None


def _sentence(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        allowed: Any = Recipe
        for part in error["loc"][:-1]:
            allowed = allowed.model_fields[part].annotation
        return f"{name}: unknown field; allowed here: {', '.join(allowed.model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{name}: missing"
    if error["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name}: {message} (it is {error['input']!r})"


def _read(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from None
    values = _yaml(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of fields, found a {type(values).__name__}")
    return values


def _yaml(text: str, place: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise RecipeError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from None


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    values[last] = value
