"""Requests that are not valid, drawn by hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from hypothesis import strategies as st
from pydantic import BaseModel

from made_core.recipe import Recipe

HUGE = (10**29, -(10**29), 2**63, 10**400, float("inf"), float("-inf"), float("nan"))
TEXTS = ("a\0b", "\ud800", "a\ud800b", "line\nbreak", "\x7f")
PLACES = (
    "relative", "../../etc", "~nobody/x", "file://relative", "/etc/../etc/passwd.tar", "/proc/self/environ",
    "/no/such/folder", "s33://bucket/x", "/x" * 3000, "", "$(touch SENTINEL)", "`touch SENTINEL`",
)  # fmt: skip
COMMAND = "touch SENTINEL"  # in the working folder of a front door or worker that would run it
UNKNOWN = ("job_variables", "command", "env", "replace", "__class__", "\ud800", "a\0b", "x" * 500)
TEMPLATE = {"__prefect_kind": "jinja", "template": "{{ 1 }}"}


@dataclass(frozen=True)
class Malformed:
    """A request that is not valid."""

    kind: str
    field: str  # that an answer has to name, or whose value it has to show
    recipe: Any
    # For Prefect's API: fields beside the parameters.
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field of the recipe with its annotation: parts, and what is in them."""
    for name, found in model.model_fields.items():
        yield f"{prefix}{name}", found.annotation
        if isinstance(found.annotation, type) and issubclass(found.annotation, BaseModel):
            yield from fields(found.annotation, f"{prefix}{name}.")


FIELDS = dict(fields(Recipe))
NUMBERS = [n for n, kind in FIELDS.items() if {int, float} & {kind, *get_args(kind)}]
PATHS = ["sources", "output", "store", "extends", "encoder.config", "encoder.pretrained"]


def put(base: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """`base` with another value of a field."""
    head, _, rest = name.partition(".")
    if head == "encoder" and rest in ("config", "pretrained"):
        base = {**base, "encoder": {"model": "ViT-B-32", "pretrained": "openai"}}
    return {**base, head: put(base.get(head) or {}, rest, value) if rest else value}


@st.composite
def malformed(draw: st.DrawFn, base: dict[str, Any]) -> Malformed:
    """A request that is not valid, from a valid recipe."""
    kind = draw(
        st.sampled_from(["type", "huge", "text", "place", "unknown", "missing", "template", "job", "shape"])
    )
    # A huge number that Prefect does not check breaks its lists of runs: docs/security.md.
    unchecked = kind not in ("huge", "shape") and draw(st.booleans())
    beside: dict[str, Any] = {"enforce_parameter_schema": False} if unchecked else {}
    if kind == "type":
        name = draw(st.sampled_from(sorted(FIELDS)))
        wrong = draw(st.sampled_from([{"x": 1}, [{}], [[]], {"": None}]))
        return Malformed(kind, name, put(base, name, wrong), beside)
    if kind == "huge":
        name = draw(st.sampled_from(NUMBERS))
        return Malformed(kind, name, put(base, name, draw(st.sampled_from(HUGE))), beside)
    if kind in ("text", "place"):
        name = draw(st.sampled_from(PATHS if kind == "text" else ["sources", "output", "store"]))
        text = draw(st.sampled_from(TEXTS if kind == "text" else PLACES))
        return Malformed(kind, name, put(base, name, [text] if name == "sources" else text), beside)
    if kind == "unknown":
        parts = [
            "",
            *[f"{n}." for n, of in FIELDS.items() if isinstance(of, type) and issubclass(of, BaseModel)],
        ]
        name = draw(
            st.sampled_from(UNKNOWN) | st.text(min_size=1, max_size=20).filter(lambda t: "." not in t)
        )
        where = draw(st.sampled_from(parts)) + name
        return Malformed(
            kind, name if where not in FIELDS else where, put(base, where, {"command": COMMAND}), beside
        )
    if kind == "missing":
        name = draw(st.sampled_from(["sources", "output"]))
        return Malformed(kind, name, {n: v for n, v in base.items() if n != name}, beside)
    if kind == "template":
        name = draw(st.sampled_from(sorted(FIELDS)))
        return Malformed(kind, name, put(base, name, TEMPLATE), beside)
    if kind == "job":
        variables = draw(st.dictionaries(
            st.sampled_from(["command", "env", "working_dir", "stream_output", "image"]),
            st.sampled_from([COMMAND, {"PATH": "/x"}, "/etc", None, 1]), min_size=1,
        ))  # fmt: skip
        return Malformed(
            kind, "job_variables", {**base, "job_variables": variables}, {"job_variables": variables}
        )
    whole = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.integers(), max_size=3)
    )
    return Malformed("shape", "recipe", draw(whole), beside)
