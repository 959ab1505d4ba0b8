"""Reads a recipe from a YAML file, the command line or a request; every error is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from made_core.errors import RecipeError
from made_core.recipe import Recipe

OPTIONS = {"sources": "--source", "output": "--output"}  # of the fields that have no default
SHOWN = 100  # characters of an invalid value in its message
SAID = ("extra_forbidden", "missing", "value_error")  # errors whose message says all


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
    given = {
        name: value for name, value in values.items() if value is not None
    }  # a section with only comments
    if isinstance(given.get("sources"), str):
        given["sources"] = [given["sources"]]
    place = " and ".join([*([path] if path else []), *(["--set"] if sets else [])]) or "the command line"
    return validate(given, place)


def validate(values: object, place: str | None) -> Recipe:
    """`values` as a Recipe.

    Args:
        place: where they were written, for the message; None: in a request.

    Raises:
        RecipeError: names each invalid field, its value and what is allowed.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        text = "; ".join(_sentences(error.errors(), {} if place is None else OPTIONS))
        raise RecipeError(f"{place}: {text}" if place else text) from None


def _sentences(errors: Sequence[Any], options: Mapping[str, str]) -> list[str]:
    """A sentence for each invalid field; the errors that a union has for its types are one sentence.

    Args:
        options: of the command line, by the field that they set.
    """
    found: dict[str, tuple[list[str], Any]] = {}
    for error in errors:
        name, section = _field(error["loc"])
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), section.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            message = f"unknown field{hint or ';'} allowed here: {', '.join(section.model_fields)}"
        elif error["type"] == "missing":
            message = f"missing; {options[name]} sets it" if name in options else "missing"
        elif error["type"] == "model_type":
            message = "expected a mapping of fields"
        else:
            message = error["msg"].removeprefix("Value error, ")
        messages, _ = found.setdefault(name, ([], error))
        messages.append(message.removeprefix("Input should be ") if messages else message)
    return [
        f"{name}: {' or '.join(messages)}"
        + ("" if error["type"] in SAID else f" (it is {_shown(error['input'])})")
        for name, (messages, error) in found.items()
    ]


def _field(loc: Sequence[str | int]) -> tuple[str, type[BaseModel]]:
    """The name of the field that an error is in, without the type of a union, and its section."""
    names: list[str] = []
    section: type[BaseModel] = Recipe
    inside: Any = Recipe
    for name in loc:
        if isinstance(name, str):
            if not (isinstance(inside, type) and issubclass(inside, BaseModel)):
                break
            section = inside
            field = section.model_fields.get(name)
            inside = field.annotation if field else None
        names.append(str(name))
    return ".".join(names) or "recipe", section


def _shown(value: object) -> str:
    """An invalid value, cut where it is long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _read(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a text; expected YAML in UTF-8") from None
    values = _yaml(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of fields, found a {type(values).__name__}")
    return values


def _yaml(text: str, place: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise RecipeError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node."""
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for n, key in enumerate(keys):
            if key.value in {k.value for k in keys[:n]}:
                again = f"{key.value} is given again in line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(problem=again)
        return super().construct_mapping(node, deep)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    values[last] = value
