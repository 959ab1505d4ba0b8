"""`--extends`: which run is meant, and mistakes that end the command before Prefect and Ray start."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from flows import request
from flows.cli import terminal
from flows.flow_run import TAG
from flows.service import requests
from made_core.errors import UserError
from made_core.ledger.ledger import Ledger
from made_core.recipe import Recipe
from made_core.sample.write import write_sample
from made_core.types import RunState
from tests.support.ledgers import sql
from tests.support.runs import Curate, made_here


@dataclass(frozen=True)
class Base:
    """A completed run, and shards to add."""

    run: str
    output: Path
    new: Path


@pytest.fixture(scope="module")
def base(servers: str, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A run of two shards without stats, with settings that are not the defaults; a third such shard."""
    from flows.curate import curate as flow
    from made_core.recipe_file import validate

    folder = tmp_path_factory.mktemp("extended")
    write_sample(folder, samples=60, shards=3, seed=5)
    for stats in folder.glob("shards/*_stats.json"):
        stats.unlink()
    (folder / "new").mkdir()
    shutil.move(folder / "shards" / "00002.tar", folder / "new")
    values: dict[str, Any] = {
        "sources": [str(folder / "shards")], "output": str(folder / "one"),
        "admission": {"require_stats": False}, "clusters": {"k": 2, "probes": 2}, "audit": {"queries": 0},
    }  # fmt: skip
    return Base(flow(validate(values, "the test")).run, folder / "one", folder / "new")


@pytest.fixture
def refused(elsewhere: dict[str, str], base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The sentence with which `made curate` refuses arguments; nothing starts."""
    here = {name: value for name, value in elsewhere.items() if name.startswith(("MADE_", "PREFECT_"))}
    monkeypatch.setattr(terminal, "run", lambda *_: pytest.fail("Prefect and Ray start"))

    def refuse(*words: str | Path, extends: str | Path = base.run) -> str:
        given = [*words] if "--output" in words else [*words, "--output", tmp_path / "two"]
        given = given if "--source" in words else [*given, "--source", base.new]
        done = made_here("curate", "--extends", extends, *given, **here)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "two").exists()
        return done.stderr

    return refuse


def test_mistakes_end_before_anything_starts(refused: Any, base: Base, servers: str, tmp_path: Path) -> None:
    for setting in ("clusters.k=3", "clusters.probes=1", "clusters.seed=1"):
        assert "clusters cannot be changed when extending run" in refused("--set", setting)
    assert "which is extended: choose another output" in refused("--output", base.output, "--replace")
    text = refused("--set", "dedup.eps=0.3")
    assert "stored pairs up to eps_max 0.24, this recipe sets 0.3" in text
    assert "stored pairs up to eps_max 0.24, this recipe sets 0.2" in refused("--set", "dedup.eps_max=0.2")
    assert "has the encoder perceptual, this recipe sets mean-colour" in refused(
        "--set", "encoder.model=mean-colour"
    )
    assert f"run {base.run} already contains all 2 shards" in refused(
        "--source", base.output.parent / "shards"
    )
    assert "no run none in the ledger, by id, output or flow run" in refused(extends="none")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "run.json").write_text('{"run": "other", "recipe_digest": "other"}')
    assert "taken belongs to run other with another recipe" in refused("--output", taken)


def test_a_run_that_cannot_be_extended(refused: Any, base: Base, servers: str, tmp_path: Path) -> None:
    begin: dict[str, Any] = {"recipe": {}, "store": str(tmp_path), "holder": "me", "lease_seconds": 0}
    with closing(Ledger.open(servers)) as ledger:
        for name, output, replace in (("live", "a", False), ("old", "b", False), ("new", "b", True)):
            at = str(tmp_path / output)
            ledger.runs.begin(run_id=name, recipe_digest=name, output=at, replace=replace, **begin)
        ledger.runs.end("new", "me", RunState.FAILED, None, "broken")
    ended = (("live", "running"), ("old", "replaced"), ("new", "failed"), (str(tmp_path / "b"), "failed"))
    for name, state in ended:
        assert re.search(f"run (live|old|new) is {state}: only a completed run", refused(extends=name))
    pairs = f"WHERE run_id = '{base.run}' AND stage = 'pairs'"
    sql(servers, f"UPDATE stage SET version = version - 1 {pairs}")
    try:
        assert f"run {base.run}, made by another version of made (pairs)" in refused()
    finally:
        sql(servers, f"UPDATE stage SET version = version + 1 {pairs}")


def test_the_run_by_id_output_and_flow_run(
    curate: Curate, base: Base, servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are the same request; what is recorded is the run's id."""
    with get_client(sync_client=True) as client:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"{TAG}{base.run}"]))
        (flow_run,) = client.read_flow_runs(flow_run_filter=tagged)
    monkeypatch.chdir(base.output.parent)
    names = (base.run, str(base.output), "one/", str(flow_run.id), f"http://x/runs/flow-run/{flow_run.id}")
    found = [
        Recipe.model_validate({"sources": [str(base.new)], "output": str(tmp_path / "two"), "extends": name})
        for name in names
    ]
    wanted = [request.checked(servers, recipe, False, deployed=True).recipe for recipe in found]
    assert {r.extends for r in wanted} == {base.run} and len({r.recipe_digest for r in wanted}) == 1
    asked = [requests.checked(recipe) for recipe in found]
    assert {one.recipe["extends"] for one in asked} == {base.run} and len({one.key for one in asked}) == 1

    by_output = curate(base.new, output=tmp_path / "two", extends=str(base.output))
    assert by_output["extends"]["run"] == base.run
    assert json.loads((tmp_path / "two" / "run.json").read_text())["recipe"]["extends"] == base.run
    before = (tmp_path / "two" / "summary.json").read_bytes()
    by_id = curate(base.new, output=tmp_path / "two", extends=base.run)
    assert by_id["run"] == by_output["run"]
    assert (tmp_path / "two" / "summary.json").read_bytes() == before


def test_an_unknown_run_tells_nobody_where_others_write(base: Base, servers: str, tmp_path: Path) -> None:
    """The front door's callers may not see them."""
    recipe = {"sources": [str(base.new)], "output": str(tmp_path / "two"), "extends": "/nowhere"}
    with pytest.raises(UserError, match=base.run) as caught:
        request.checked(servers, recipe, False, deployed=True)
    assert str(base.output) not in str(caught.value)
