"""The front door without Prefect: who is let in, and requests that never become a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from flows import preflight
from flows.service import front_door, prefect_runs, requests, tokens
from made_core.errors import UserError
from made_core.sample.write import write_sample
from made_core.settings import settings

TOKEN = "secret-of-the-test"


@pytest.fixture(autouse=True)
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A ledger that knows no run: a unit test starts no PostgreSQL."""
    monkeypatch.setenv("MADE_DATABASE_URL", "postgresql://nowhere/made")
    monkeypatch.setattr(preflight, "check_owner", lambda *_: None)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client with the token; a request that would reach Prefect fails the test."""

    def unexpected(*_: Any) -> None:
        pytest.fail("a run was started")

    monkeypatch.setattr(prefect_runs, "start", unexpected)
    with TestClient(front_door.application(TOKEN), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished folder."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, samples=20, shards=2, seed=1)
    return str(folder / "shards")


def test_health_needs_no_token(door: TestClient) -> None:
    assert TestClient(door.app).get("/health").json()["status"] == "ok"


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/runs"), ("GET", "/runs"), ("GET", f"/runs/{'0' * 32}"), ("POST", f"/runs/{'0' * 32}/cancel"),
])  # fmt: skip
def test_everything_else_needs_the_token(door: TestClient, given: str | None, method: str, path: str) -> None:
    del door.headers["Authorization"]
    answer = door.request(
        method, path, json={}, headers={"Authorization": given} if given is not None else {}
    )
    assert answer.status_code == 401 and TOKEN not in answer.text
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sources": None}, "sources: "),
        ({"output": "out"}, "output: out is a relative path"),
        ({"sources": ["shards"]}, "sources: shards is a relative path"),
        ({"store": "file://store"}, "store: file://store is a relative path"),
        ({"output": "/x\0"}, "output: control characters and lone surrogates are not"),
        ({"clusters": {"k": 10**29}}, "clusters.k: "),
        ({"job_variables": {"command": "id"}}, "job_variables: unknown field"),
        ({"dedup": {"eps": "x"}}, "dedup.eps: Input should be a valid number"),
        ({"sources": ["/no/such/folder"]}, "no such folder: /no/such/folder"),
    ],
)
def test_a_mistake_is_named(door: TestClient, shards: str, tmp_path: Path, change: dict[str, Any],
                            sentence: str) -> None:  # fmt: skip
    answer = door.post("/runs", json={"sources": [shards], "output": str(tmp_path / "out"), **change})
    assert answer.status_code == 422 and sentence in answer.json()["detail"], answer.text


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "sources: "),
        (b"{", "body: not valid JSON"),
        (b"[]", "recipe: expected a mapping"),
        (b'{"sources": ["/x"], "output": "/y", "dedup": {"eps": NaN}}', "dedup.eps: "),
        (b'{"sources": ["/x"], "output": "/y", "\\ud800": 1}', "recipe: "),
        (b'{"sources": ["\\ud800"], "output": "/y"}', "sources.0: "),
    ],
)
def test_malformed_bodies(door: TestClient, body: bytes, sentence: str) -> None:
    answer = door.post("/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and sentence in answer.json()["detail"], answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/runs/nosuch"), ("POST", "/runs/nosuch/cancel")])
def test_an_id_that_is_none(door: TestClient, method: str, path: str) -> None:
    answer = door.request(method, path)
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "run_id: expected the id of a run that was started here, as GET /runs lists them (it is 'nosuch')"
    )


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_body_is_json_whatever_its_header_says(door: TestClient, kind: str) -> None:
    """As `curl -d` sends it."""
    body = b'{"sources": ["/none"], "output": "/y"}'
    answer = door.post("/runs", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422 and "no such folder: /none" in answer.json()["detail"], answer.text


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"output": ' + b"9" * 10_000 + b"}"])
def test_bodies_that_a_parser_dislikes(door: TestClient, body: bytes) -> None:
    answer = door.post("/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and len(answer.text) < 3000


def test_a_large_body(door: TestClient) -> None:
    body = json.dumps({"sources": ["x" * requests.MAX_BODY]}).encode()
    pieces = (body[i : i + 1000] for i in range(0, len(body), 1000))
    for content in (body, pieces):
        answer = door.post("/runs", content=content)
        assert answer.status_code == 413 and answer.json()["detail"].startswith("body: more than 1,048,576")


def test_an_unfinished_folder(door: TestClient, tmp_path: Path) -> None:
    write_sample(tmp_path, samples=20, shards=2, seed=1)
    (tmp_path / "shards" / "00001_stats.json").unlink()
    for source in (tmp_path / "shards", tmp_path / "shards" / "*.tar"):
        answer = door.post("/runs", json={"sources": [str(source)], "output": str(tmp_path / "out")})
        assert answer.status_code == 422 and "00001" in answer.json()["detail"], answer.text


def test_the_key_depends_on_shards_recipe_and_output(shards: str, tmp_path: Path) -> None:
    from made_core.recipe import Recipe

    def key(**fields: Any) -> str:
        given = {"sources": [shards], "output": str(tmp_path / "out"), **fields}
        return requests.checked(Recipe.model_validate(given)).key

    assert key() == key() == key(dedup={"keep": "auto"})  # the default
    others = {
        key(dedup={"keep": "easy"}),
        key(output=str(tmp_path / "b")),
        key(sources=[f"{shards}/00000.tar"]),
    }
    assert len(others | {key()}) == 4


def test_openapi_describes_the_recipe(door: TestClient) -> None:
    document = TestClient(door.app).get("/openapi.json").json()
    assert set(document["paths"]) == {"/health", "/runs", "/runs/{run_id}", "/runs/{run_id}/cancel"}
    assert "sources" in document["components"]["schemas"]["Recipe"]["properties"]
    assert document["paths"]["/runs"]["post"]["security"]


def test_the_token_file(home: Path) -> None:
    token = tokens.ensured()
    path = home / "service" / "trigger-token"
    assert path.stat().st_mode & 0o777 == 0o600 and len(token) > 40
    assert tokens.ensured() == tokens.read() == token
    path.chmod(0o640)
    with pytest.raises(UserError, match=r"other users can read it \(mode 640\); chmod 600"):
        tokens.read()
    path.chmod(0o600)
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        tokens.read()
    path.unlink()
    with pytest.raises(UserError, match="no trigger token at"):
        tokens.read()


def test_an_output_of_another_recipe_is_refused_with_what_this_caller_can_do(
    door: TestClient, shards: str, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text('{"run": "r1", "recipe_digest": "of another recipe"}')
    answer = door.post("/runs", json={"sources": [shards], "output": str(tmp_path)})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        f"{tmp_path} belongs to run r1 with another recipe; name another output, or take it over: "
        "`made curate --replace`, in Prefect the parameter replace"
    )
