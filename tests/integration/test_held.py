"""A run's lease survives a database outage; a process that lost it does not publish."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flows import run as runs
from flows.request import Request
from made_core.errors import LeaseLost
from made_core.ingest.discovery import Discovery
from made_core.ledger.ledger import Ledger
from made_core.recipe import Recipe
from made_core.types import RunState


def recipe_of(folder: Path, seconds: float) -> Recipe:
    return Recipe(sources=("in",), output=str(folder / "out"), work={"lease_seconds": seconds})


def request(recipe: Recipe) -> Request:
    return Request(recipe, replace=False, found=Discovery((), ()), earlier=None)


def test_renewals_go_on_after_an_error(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runs._held(empty_url, request(recipe_of(tmp_path, 1))) as (ledger, run):
        renew, calls = ledger.runs.renew, []

        def flaky(*args: Any) -> bool:
            calls.append(args)
            if len(calls) < 3:
                raise RuntimeError("the database is away")
            return renew(*args)

        monkeypatch.setattr(ledger.runs, "renew", flaky)
        deadline = time.monotonic() + 30
        while len(calls) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(calls) >= 4
        ledger.runs.end(run, runs._holder(), RunState.COMPLETED, {}, None)


def test_an_output_taken_over_meanwhile(ledger: Ledger, empty_url: str, tmp_path: Path) -> None:
    """A process suspended beyond its lease gets an error, and the new owner's run is not changed."""
    recipe = recipe_of(tmp_path, 60)
    with (
        pytest.raises(LeaseLost, match=rf"run .* and its output {recipe.output} are no longer held by "),
        runs._held(empty_url, request(recipe)) as (mine, run),
    ):
        runs._still_ours(mine, run, recipe)
        take_over(empty_url, ledger, recipe)
        runs._still_ours(mine, run, recipe)
    found = ledger.runs.of_output(recipe.output)
    assert found is not None and found.id == "other" and found.state is RunState.RUNNING


def take_over(url: str, ledger: Ledger, recipe: Recipe) -> None:
    """Gives the output to another run after the lease has expired."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE run SET lease_until = now() - interval '1 second'"))
    engine.dispose()
    ledger.runs.begin("other", "another", {}, recipe.output, recipe.store_url, "else", 60, True)
