"""Checks that malformed requests start no work: at the front door, and at Prefect's own API.

    python -m tests.fuzz.requests --cases 1000 --seed 0

Hypothesis draws the requests. Each has to be answered with the field named, or with an answer of Prefect's
own that docs/security.md lists; a run that Prefect accepts has to be refused by the flow before it starts
work. Prints the answers by kind of request and one JSON line; exits 0 only if nothing was found.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from made_core import settings as made_settings
from made_core.recipe import Recipe
from made_core.sample.write import write_sample
from tests.support import doors

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
    # A huge integer that Prefect does not check breaks its lists of runs: docs/security.md.
    unchecked = kind != "huge" and draw(st.booleans())
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


@dataclass
class Found:
    """What the requests were answered with."""

    answers: dict[str, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    findings: list[str] = dataclasses.field(default_factory=list)


def names(text: str, case: Malformed) -> bool:
    """Whether an answer names the field, or the value, of a case."""
    if case.kind == "unknown":  # its name may have blanks, which a sentence does not keep
        return "unknown field" in text or "Additional properties" in text or case.field in text
    last = case.field.rsplit(".", 1)[-1].encode("utf-8", "backslashreplace").decode()
    return last[:50] in text or repr(last)[1:-1][:50] in text or case.field.split(".")[0] in text


def body_of(value: Any) -> bytes:
    """JSON with what Python's parser also accepts: NaN, infinity, lone surrogates as escapes."""
    sys.set_int_max_str_digits(0)
    return json.dumps(value).encode()


def at_the_door(door: httpx.Client, case: Malformed, found: Found) -> None:
    """Posts a case to the front door."""
    answer = door.post("/runs", content=body_of(case.recipe), headers={"Content-Type": "application/json"})
    found.answers[f"door: {case.kind}"][str(answer.status_code)] += 1
    text = answer.json().get("detail", "") if answer.status_code < 500 else ""
    places = case.kind == "place" or "no such" in text
    if answer.status_code != 422 or not isinstance(text, str) or not (places or names(text, case)):
        found.findings.append(f"door: {case.kind} {case.field}: {answer.status_code} {answer.text[:300]}")


def at_prefect(api: httpx.Client, deployment: str, case: Malformed, found: Found, url: str) -> None:
    """Posts a case to Prefect's API; what it accepts is checked as the flow does at its start."""
    from flows.request import checked
    from made_core.errors import UserError

    recipe = case.recipe
    if case.kind == "job":
        recipe = {n: v for n, v in recipe.items() if n != "job_variables"}
    body = {"parameters": {"recipe": recipe}, "state": {"type": "SCHEDULED"}, **case.beside}
    answer = api.post(
        f"/deployments/{deployment}/create_flow_run", content=body_of(body),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    status = answer.status_code
    how = str(status)
    if status == 201:
        run = answer.json()
        api.post(f"/flow_runs/{run['id']}/set_state", json={"state": {"type": "CANCELLED"}, "force": True})
        if case.kind == "job":
            how = "201, ignored"
            if api.get(f"/flow_runs/{run['id']}").json()["job_variables"]:
                found.findings.append(f"Prefect: job variables {case.beside} accepted")
        else:
            try:
                checked(url, run["parameters"].get("recipe"), False, True)
                # Prefect stored something else: NaN as null, a template as its value.
                how = "201, valid as stored"
                if case.kind not in ("huge", "template"):
                    found.findings.append(
                        f"Prefect: {case.kind} {case.field}: the flow accepts {case.recipe!r:.300}"
                    )
            except UserError as error:
                how = "201, the flow refuses"
                if not (case.kind == "place" or names(str(error), case)):
                    found.findings.append(f"the flow: {case.kind} {case.field}: {error}"[:400])
    elif status not in (400, 409, 422, 500, 503):
        found.findings.append(f"Prefect: {case.kind} {case.field}: {status} {answer.text[:300]}")
    found.answers[f"Prefect: {case.kind}"][how] += 1


@contextmanager
def confined(folder: str) -> Iterator[None]:
    """Sets MADE_ROOTS, without which a request may name any folder that this user can read or write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MADE_ROOTS", folder)
        made_settings.settings.cache_clear()
        yield
    made_settings.settings.cache_clear()


def client(environ: dict[str, str]) -> httpx.Client:
    """A client of Prefect's API, one connection for a request: the server closes those that it fails on."""
    name, _, password = environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    return httpx.Client(
        base_url=environ["PREFECT_API_URL"],
        auth=(name, password) if name else None,
        timeout=60,
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def run(door: httpx.Client, api: httpx.Client, base: dict[str, Any], url: str, cases: int, number: int,
        texts: bool = True) -> Found:  # fmt: skip
    """Sends `cases` requests to each.

    Args:
        base: a valid recipe.
        url: of the ledger.
        texts: send texts that cannot be stored to Prefect too: false where its database is SQLite.
    """
    found = Found()
    deployment = api.get("/deployments/name/made/curate").json()["id"]
    before = len(door.get("/runs").json())

    @seed(number)
    @settings(max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(malformed(base))
    def send(case: Malformed) -> None:
        try:
            at_the_door(door, case, found)
            if texts or not any(text in json.dumps(case.recipe) for text in (r"\ud8", r"\u0000")):
                at_prefect(api, deployment, case, found, url)
        except (httpx.TransportError, ValueError, KeyError) as error:
            found.findings.append(f"{case.kind} {case.field}: {error!r:.300}")

    send()
    for name in ("flow_runs", "deployments"):
        answer = api.post(f"/{name}/filter", json={})
        if answer.status_code != 200:
            found.findings.append(f"/{name}/filter answers {answer.status_code} afterwards")
    if len(door.get("/runs").json()) != before:
        found.findings.append("the front door started a run")
    live = api.post(
        "/flow_runs/count", json={"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}}
    )
    if live.json() != 0:
        found.findings.append(f"{live.json()} runs are scheduled")
    if Path("SENTINEL").exists():
        found.findings.append("a command ran: SENTINEL exists")
    return found


def show(found: Found, cases: int, number: int) -> int:
    """Prints the answers by kind, and one JSON line. Returns the exit code."""
    table = Table(title=f"{cases:,} malformed requests to each, seed {number}")
    for name in ("kind", "answers"):
        table.add_column(name)
    total: Counter[str] = Counter()
    for kind, answers in sorted(found.answers.items()):
        table.add_row(kind, ", ".join(f"{n:,} x {answer}" for answer, n in sorted(answers.items())))
        total.update({f"{kind.split(':')[0]} {answer}": n for answer, n in answers.items()})
    console = Console(width=140)
    console.print(table)
    for text in found.findings:
        line = f"finding: {text}".encode("utf-8", "backslashreplace").decode()
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    print(json.dumps({"cases": cases, "seed": number, "answers": total, "findings": len(found.findings)}))
    return 1 if found.findings else 0


def main() -> int:
    """Returns 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # Prefect on PostgreSQL, as the service has it: on SQLite it stores lone surrogates, and its lists break.
    with (
        tempfile.TemporaryDirectory(prefix="made-") as name,
        confined(name),
        doors.service(Path(name)) as door,
    ):
        folder = Path(name)
        write_sample(folder, samples=20, shards=2, seed=1)
        base = {"sources": [str(folder / "shards")], "output": str(folder / "out")}
        with door.client() as caller, client(door.environ) as api:
            url = door.environ["MADE_DATABASE_URL"]
            found = run(caller, api, base, url, arguments.cases, arguments.seed)
    return show(found, arguments.cases, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
