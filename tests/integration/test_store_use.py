"""What `made store` says of a store, locally and in an object store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from flows import store as view
from made_core.errors import PathError
from made_core.io import files, paths
from made_core.ledger import store_use
from made_core.ledger.ledger import Ledger
from made_core.ledger.store_use import ScopeUse
from made_core.stages import DRAW, EMBED, RESOLVE, Stage
from made_core.types import FileRef, RunState
from tests.support import s3
from tests.support.ledgers import NAP, output, sql


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    with s3.server():
        boto3.client("s3").create_bucket(Bucket=s3.BUCKET)
        yield f"s3://{s3.BUCKET}/{tmp_path.name}"  # moto keeps its state between servers


def begin(ledger: Ledger, run: str, store: str, extends: str | None = None, replace: bool = False) -> None:
    """A completed run with the output /RUN, or that of the run which it replaces."""
    at = "/first" if replace else f"/{run}"
    ledger.runs.begin(run, run, {"extends": extends}, at, store, "me", 60, replace)
    ledger.runs.end(run, "me", RunState.COMPLETED, None, None)


def use(ledger: Ledger, run: str, stage: Stage[Any], scope: str, *keys: str) -> None:
    """Records the units of a run's stage; all but the last are done."""
    ledger.units.put(run, stage, scope, keys, 3)
    for unit in ledger.units.claim(stage, scope, keys[:-1], len(keys), 60, "host"):
        ledger.units.finish(unit, output())


def put(store: str, folder: str, **sizes: int) -> None:
    for name, size in sizes.items():
        files.put_bytes(files.join(store, folder, name), b"." * size)


def scopes(ledger: Ledger, store: str) -> dict[str, ScopeUse]:
    return {scope.folder: scope for scope in store_use.of_store(ledger, store).scopes}


def test_files_bytes_units_and_runs_by_scope(ledger: Ledger, store: str) -> None:
    put(store, "embeddings/shared", a=5, b=6)
    put(store, "decisions/mine", c=100)
    put(store, "decisions/abandoned", d=50)  # for example by `made retry`, which has another corpus
    put(store, "catalogs/old", e=7)  # of version 0.1
    begin(ledger, "first", store)
    use(ledger, "first", EMBED, "shared", "k1", "k2", "k3")
    use(ledger, "first", RESOLVE, "mine", "corpus")
    begin(ledger, "second", store)
    use(ledger, "second", EMBED, "shared", "k3", "k4")
    found = store_use.of_store(ledger, store + "/")
    assert found.store == store and (found.files, found.bytes) == (5, 168)
    assert [s.folder for s in found.scopes] == [
        "decisions/mine", "decisions/abandoned", "embeddings/shared", "catalogs/old"
    ]  # fmt: skip
    mine, abandoned, shared, old = found.scopes
    assert (mine.stage, mine.scope, mine.files, mine.bytes, mine.runs) == (
        "resolve", "mine", 1, 100, ("first",)
    )  # fmt: skip
    assert (shared.files, shared.bytes, shared.done, shared.runs) == (2, 11, 3, ("second", "first"))
    latest = ledger.runs.get("second")
    assert latest is not None and shared.used_at == latest.updated_at
    assert abandoned.runs == () and abandoned.used_at is None and abandoned.stage == "resolve"
    assert old.stage is None and old.runs == ()


def test_an_outdated_stage_is_known_by_its_scope(ledger: Ledger, store: str) -> None:
    """Of an earlier version of made: the ledger still has its units and the run's row."""
    put(store, "catalogs/old", a=1)
    begin(ledger, "first", store)
    use(ledger, "first", NAP, "old", "k1", "k2")
    (old,) = store_use.of_store(ledger, store).scopes
    assert (old.stage, old.done, old.runs) == (None, 1, ("first",))


def test_runs_that_extend_a_run_are_named(ledger: Ledger, store: str) -> None:
    put(store, "draws/base", a=1)
    put(store, "draws/other", a=1)
    for run, extends in (("first", None), ("second", "first"), ("third", "second"), ("alone", None)):
        begin(ledger, run, store, extends)
    use(ledger, "first", DRAW, "base", "corpus")
    use(ledger, "alone", DRAW, "other", "corpus")
    found = scopes(ledger, store)
    assert found["draws/base"].runs == ("first",)
    assert found["draws/base"].extended_by == ("third", "second")
    assert found["draws/other"].extended_by == ()


def test_a_replaced_run_is_marked(ledger: Ledger, store: str) -> None:
    put(store, "draws/base", a=1)
    begin(ledger, "first", store)
    use(ledger, "first", DRAW, "base", "corpus")
    begin(ledger, "second", store, replace=True)
    (base,) = store_use.of_store(ledger, store).scopes
    assert base.runs == base.replaced == ("first",)


def test_tables_of_corpora_belong_to_the_runs_that_point_to_them(ledger: Ledger, store: str) -> None:
    put(store, "corpora", **{"a.parquet": 3, "b.parquet": 4})
    for run in ("first", "second"):
        begin(ledger, run, store)
    ledger.runs.put_corpus("first", FileRef(f"{store}/corpora/a.parquet", 3, "0" * 32, "0" * 8))
    ledger.runs.put_corpus("second", FileRef("/elsewhere/corpora/b.parquet", 3, "0" * 32, "0" * 8))
    (corpora,) = store_use.of_store(ledger, store).scopes
    assert (corpora.folder, corpora.scope, corpora.files, corpora.bytes) == ("corpora", None, 2, 7)
    assert corpora.runs == ("first",)


def test_what_is_not_a_store(ledger: Ledger, store: str) -> None:
    with pytest.raises(PathError, match="no such folder"):
        store_use.of_store(ledger, store)
    put(store, "", **{paths.RUN_MARK: 2})
    with pytest.raises(PathError, match=r"is the output of a run; the default store is the folder .*/store"):
        store_use.of_store(ledger, store)


def test_text_and_json(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, missing = str(tmp_path / "store"), str(tmp_path / "removed")
    put(here, "embeddings/shared", a=2000)
    put(here, "decisions/abandoned", b=3)
    for n in range(5):
        begin(ledger, f"run{n}", here)
        use(ledger, f"run{n}", EMBED, "shared", "k1", "k2")
    begin(ledger, "gone", missing)
    sql_dates = "UPDATE run SET updated_at = '2026-11-27 12:00:00+00' WHERE id = 'run4'"
    sql(ledger._database._engine.url.render_as_string(hide_password=False), sql_dates)
    view.show(ledger, None)
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert rows[0][:5] == ["embeddings/shared", "1", "2,000", "1", "run4, run3, run2 and 2 more"]
    assert rows[1] == ["decisions/abandoned", "1", "3", "0", "no run", ""]
    assert rows[2][:3] == ["total", "2", "2,003"] and rows[3][:3] == ["of these, no run", "1", "3"]
    assert "Nothing was removed" in printed and "other ledgers" in printed and "--extends" in printed
    assert f"not listed: {missing}: no such folder" in printed
    found = json.loads(view.document(ledger, here))
    assert found["unread"] == []
    (only,) = found["stores"]
    assert (only["store"], only["files"], only["bytes"]) == (here, 2, 2003)
    shared, abandoned = only["scopes"]
    assert shared["runs"] == ["run4", "run3", "run2", "run1", "run0"] and abandoned["used_at"] is None
    assert set(shared) == {
        "folder", "stage", "scope", "files", "bytes", "done", "runs", "replaced", "extended_by", "used_at"
    }  # fmt: skip


def test_no_store(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    view.show(ledger, None)
    assert capsys.readouterr().out == "no runs in the ledger: name a store\n"
    assert json.loads(view.document(ledger, None)) == {"stores": [], "unread": []}
