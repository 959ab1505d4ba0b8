"""The base of the recipe's sections. It completes their JSON schema, which Prefect's form shows.

The form orders fields by `position` (its database keeps no order of keys), shows descriptions as Markdown
with HTML, and shows neither bounds nor units: a description is complete only with what is allowed.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

# Only NaN is both, since it compares as false with everything: a JSON schema refuses it by `not`. Prefect
# stores NaN as null, so the flow itself cannot tell it from a field that was not set.
NAN = {"type": "number", "minimum": 1, "maximum": 0}
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


class Section(BaseModel):
    """A frozen section of the recipe. Unknown fields, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Its JSON schema, with position, full description and the exclusion of NaN in each field."""
        reference = handler(core)
        schema = handler.resolve_ref_schema(reference)
        for position, field in enumerate(schema["properties"].values()):
            field["position"] = position
            if "description" not in field:  # a section: its own is in its definition
                continue
            kinds = field.get("anyOf", [field])
            for kind in kinds:
                if "const" in kind:  # the form would not let it be changed
                    kind["enum"] = [kind.pop("const")]
            if allowed := " or ".join(filter(None, map(_allowed, kinds))):
                field["description"] = f"{field['description']} Allowed: {allowed}."
            for kind in kinds:
                if kind.get("type") in ("number", "integer"):
                    field["not"] = NAN
                    # Of a union that none of its kinds fits, the form says only that. Bounds do not concern
                    # what is no number.
                    field.update({bound: kind.pop(bound) for bound in BOUNDS if bound in kind})
        return reference


def _allowed(schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words; nothing where it has no limit."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    limits = {
        "at least": least,
        "above": schema.get("exclusiveMinimum"), "at most": most, "below": schema.get("exclusiveMaximum"),
    }  # fmt: skip
    return " and ".join(f"{word} {_number(limit)}" for word, limit in limits.items() if limit is not None)


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"
