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
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.table import Table

from made_core import settings as made_settings
from made_core.sample.write import write_sample
from tests.fuzz.malformed import Malformed, malformed
from tests.support import doors


@dataclass
class Found:
    """What the requests were answered with."""

    answers: dict[str, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    findings: list[str] = dataclasses.field(default_factory=list)


def names(text: str, case: Malformed) -> bool:
    """Whether an answer names the field, or the value, of a case."""
    if case.kind == "unknown":  # its name may have blanks, which a sentence does not keep
        return (
            "unknown field" in text
            or "a valid string" in text
            or "Additional properties" in text
            or case.field in text
        )
    if case.field == "extends" and "no run " in text:  # the sentence names the run, not the field
        return True
    last = case.field.rsplit(".", 1)[-1].encode("utf-8", "backslashreplace").decode()
    return last[:50] in text or repr(last)[1:-1][:50] in text or case.field.split(".")[0] in text


def body_of(value: Any) -> bytes:
    """JSON with what Python's parser also accepts: NaN, infinity, lone surrogates as escapes."""
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
def long_integers() -> Iterator[None]:
    """Lets Python read and write integers of any length, as some requests have them."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


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


def live(api: httpx.Client) -> int:
    """How many runs wait for a worker."""
    waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}}
    return int(api.post("/flow_runs/count", json=waiting).json())


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
    before, scheduled = len(door.get("/runs").json()), live(api)

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

    with long_integers():
        send()
    for name in ("flow_runs", "deployments"):
        answer = api.post(f"/{name}/filter", json={})
        if answer.status_code != 200:
            found.findings.append(f"/{name}/filter answers {answer.status_code} afterwards")
    if len(door.get("/runs").json()) != before:
        found.findings.append("the front door started a run")
    if (more := live(api) - scheduled) != 0:
        found.findings.append(f"{more} runs are scheduled")
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
