"""What Prefect's form and API read: the JSON schema of the flow's parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.schema_tools.validation import ValidationError

from made_core.errors import RecipeError
from made_core.recipe import Recipe
from made_core.recipe_file import validate as validate_recipe

NUMBERS = ("number", "integer")
VALID: dict[str, Any] = {"sources": ["/in"], "output": "/out"}


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, JSON schema) of every field of the recipe, those of its parts too."""
    schema = Recipe.model_json_schema()
    for name, field in schema["properties"].items():
        yield name, field
        if "$ref" in field:
            part = schema["$defs"][field["$ref"].rpartition("/")[2]]
            yield from ((f"{name}.{inner}", of) for inner, of in part["properties"].items())


def kinds(field: dict[str, Any]) -> list[dict[str, Any]]:
    return list(field.get("anyOf", [field]))


def asked(name: str, value: object) -> dict[str, Any]:
    """The parameters of a request that sets one field."""
    *parts, last = name.split(".")
    return {"recipe": VALID | ({parts[0]: {last: value}} if parts else {last: value})}


FIELDS = dict(fields())
NUMERIC = {
    name: field for name, field in FIELDS.items() if any(kind.get("type") in NUMBERS for kind in kinds(field))
}


@cache
def deployed_schema() -> dict[str, Any]:
    """The schema of the parameters of `made/curate`, as `made up` registers it."""
    from flows.curate import curate
    from flows.service import register

    return register.parameters(curate)


def accepted(parameters: dict[str, Any]) -> bool:
    """Whether Prefect's API creates a run with these parameters.

    The API also checks the schema itself each time, 70 ms: see `test_the_schema_is_valid`.
    """
    return not validate(parameters, deployed_schema())


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_place_and_a_sentence(name: str) -> None:
    field = FIELDS[name]
    assert isinstance(field["position"], int)
    if "$ref" not in field:
        assert field["description"].endswith(".")
        assert "<" not in field["description"] and ">" not in field["description"]


@pytest.mark.parametrize("name", NUMERIC)
def test_every_number_has_both_bounds_and_says_them(name: str) -> None:
    kind = NUMERIC[name]
    assert {"minimum", "exclusiveMinimum"} & kind.keys()
    assert {"maximum", "exclusiveMaximum"} & kind.keys()
    for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if limit in kind:
            assert abs(kind[limit]) < 2**53  # exact in JavaScript, and in a database's column
    assert "Allowed: " in FIELDS[name]["description"]


def test_a_person_reads_first_what_a_run_needs() -> None:
    top = sorted((name for name in FIELDS if "." not in name), key=lambda name: FIELDS[name]["position"])
    assert top[:6] == ["sources", "output", "store", "encoder", "dedup", "filters"]
    assert top[-1] == "work"


def test_the_parameters_of_the_flow() -> None:
    """Nothing of the command line's is in the form."""
    from flows.curate import curate
    from flows.retry import retry

    assert list(parameter_schema(curate).properties) == ["recipe", "replace"]
    assert list(parameter_schema(retry).properties) == ["run", "names"]
    for flow in (curate, retry):
        assert all(p["description"].endswith(".") for p in parameter_schema(flow).properties.values())


def test_the_schema_is_valid() -> None:
    """As the API calls it."""
    assert validate({"recipe": VALID}, deployed_schema(), raise_on_error=True) == []


def test_an_unknown_parameter_is_refused_by_name() -> None:
    assert accepted({"recipe": VALID})
    with pytest.raises(ValidationError, match="'quiet' was unexpected"):
        validate({"recipe": VALID, "quiet": True}, deployed_schema(), raise_on_error=True)


@pytest.mark.parametrize("name", NUMERIC)
def test_a_wrong_number_gets_a_message_that_helps(name: str) -> None:
    """What the form shows beside the field. No kind is a const: the form would not let it be changed."""
    field = NUMERIC[name]
    below = (field["minimum"] if "minimum" in field else field["exclusiveMinimum"]) - 1
    shown = best_match(validate(asked(name, below), deployed_schema()))
    assert re.match(f"{below} is less than (or equal to )?the minimum of", shown.message)
    assert not any("const" in kind for kind in kinds(NUMERIC[name]))


@pytest.mark.parametrize("name", NUMERIC)
def test_numbers_that_no_column_holds(name: str) -> None:
    """Neither the API nor the flow takes them. NaN would be stored as null, and the default used silently."""
    for value in (10**29, -(10**29), math.nan, math.inf, -math.inf):
        assert not accepted(asked(name, value)), value
        with pytest.raises(RecipeError, match=name):
            validate_recipe(asked(name, value)["recipe"], None)


@given(st.sampled_from(sorted(NUMERIC)), st.integers() | st.floats())
def test_the_api_and_the_flow_agree(name: str, value: float) -> None:
    parameters = asked(name, value)
    try:
        validate_recipe(parameters["recipe"], None)
        taken = True
    except RecipeError as error:
        taken = False
        assert "\n" not in str(error)
    assert accepted(parameters) == taken
