"""A recipe names nothing outside the roots, whatever links, patterns or protocols it uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core.errors import UserError
from made_core.ingest import roots
from made_core.recipe import Recipe
from made_core.settings import Settings


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A root with a source and an encoder's config; beside it a folder that is not allowed, with the same."""
    for folder in (tmp_path / "root", tmp_path / "secret", tmp_path / "root-2"):
        (folder / "shards").mkdir(parents=True)
        (folder / "shards" / "0.tar").write_bytes(b"")
        (folder / "model.json").write_text("{}")
    os.symlink(tmp_path / "secret", tmp_path / "root" / "link")
    os.symlink(tmp_path / "secret" / "shards" / "0.tar", tmp_path / "root" / "shards" / "1.tar")
    return tmp_path


def refusal(place: Path, **fields: Any) -> str | None:
    """The message for a recipe confined to `place / "root"`; None: it is allowed. `@` is `place`."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: put(v) for k, v in value.items()}
        return [put(v) for v in value] if isinstance(value, list) else str(value).replace("@", str(place))

    values = {"sources": ["@/root/shards"], "output": "@/root/out"} | fields
    try:
        roots.confine(Recipe(**put(values)), (f"{place}/root", "s3://bucket/data"))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sources": ["@/root/shards/*.tar"]},
        {"sources": ["@/root/{shards,shards}/0.tar"]},
        {"sources": ["file://@/root/shards"]},
        {"sources": ["@/root/x/../shards"]},
        {"output": "s3://bucket/data/out", "store": "@/root"},
        {"encoder": {"model": "model", "config": "@/root/model.json", "pretrained": "openai"}},
    ],
)
def test_allowed(place: Path, fields: dict[str, Any]) -> None:
    assert refusal(place, **fields) is None


@pytest.mark.parametrize(
    "source",
    [
        "@/{}/shards",
        "@/root/../{}/shards",
        "@/root/{{shards,../../{}}}/*.tar",
        "file://@/{}/shards",
        "local://@/{}/shards",
        "simplecache::file://@/{}/shards",
        "zip://*.tar::@/{}",
        "memory://{}",
        "s3://other/{}",
        "s3://bucket/database/{}",
        "s3://bucket/data/../{}",
        "s3://bucket/data/%2E%2e/{}",
    ],
)
def test_absent_and_forbidden_sources_answer_alike(place: Path, source: str) -> None:
    forbidden, absent = (
        (refusal(place, sources=[source.format(name)]) or "allowed").replace(name, "NAME")
        for name in ("secret", "nothing")
    )
    assert forbidden == absent != "allowed"
    assert forbidden.endswith("no such folder or file in the folders allowed here")


def test_absent_inside_answers_like_forbidden(place: Path) -> None:
    inside, outside = (
        (refusal(place, sources=[f"@/{name}"]) or "allowed").replace(name, "NAME")
        for name in ("root/nothing", "secret/shards")
    )
    assert inside == outside


def test_links_lead_nowhere(place: Path) -> None:
    for source in ("@/root/link/shards", "@/root/link/*.tar", "@/root/link/shards/0.tar"):
        assert refusal(place, sources=[source])
    found = [f"{place}/root/shards/{name}.tar" for name in "01"]
    roots.confine_tars(found[:1], (f"{place}/root",))
    with pytest.raises(UserError, match=r"1\.tar: no such"):
        roots.confine_tars(found, (f"{place}/root",))
    roots.confine_tars(found, None)


@pytest.mark.parametrize("name", ["output", "store"])
@pytest.mark.parametrize(
    "url", ["@/secret/out", "@/root-2", "@/root/link/out", "@/root/../secret", "s3://other/x", "/"]
)
def test_forbidden_folders(place: Path, name: str, url: str) -> None:
    assert f"{name}: " in (refusal(place, **{name: url}) or "")


@pytest.mark.parametrize(
    "path", ["@/secret/model.json", "@/root/link/model.json", "@/root/model.jso", "/etc/hostname"]
)
def test_forbidden_files_of_the_encoder(place: Path, path: str) -> None:
    for fields in ({"config": path, "pretrained": "openai"}, {"pretrained": path}):
        text = refusal(place, encoder={"model": "model", **fields}) or ""
        assert text.endswith("no such file in the folders allowed here"), fields


def test_a_link_beside_the_weights(place: Path) -> None:
    """What is read beside them says how images are prepared."""
    weights, beside = place / "root" / "weights.pt", place / "root" / "open_clip_config.json"
    weights.touch()
    named = {"model": "model", "config": "@/root/model.json", "pretrained": "@/root/weights.pt"}
    assert refusal(place, encoder=named) is None
    beside.symlink_to(place / "secret" / "model.json")
    assert "open_clip_config.json beside encoder.pretrained" in (refusal(place, encoder=named) or "")
    beside.unlink()
    beside.write_text("{}")
    assert refusal(place, encoder=named) is None


def test_without_roots_everything_is_allowed(place: Path) -> None:
    roots.confine(Recipe(sources=("/none",), output="/x"), Settings().allowed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a", ("/a",)),
        ("/a:/b:", ("/a", "/b")),
        ("s3://x/y:/b:http://h:80/z:~/d", ("s3://x/y", "/b", "http://h:80/z", "~/d")),
    ],
)
def test_the_setting(text: str, expected: tuple[str, ...]) -> None:
    assert Settings(roots=text).allowed == expected


@given(st.lists(st.sampled_from(["..", ".", "root", "secret", "link", "shards", "x", ""]), max_size=7))
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    """What is said to be inside is inside as the system resolves it."""
    base = tmp_path_factory.mktemp("roots")
    (base / "root" / "shards").mkdir(parents=True)
    (base / "secret").mkdir()
    os.symlink(base / "secret", base / "root" / "link")
    path = "/".join([str(base), "root", *parts])
    if roots.inside(path, (f"{base}/root",)) and os.path.exists(path):
        assert Path(os.path.abspath(path)).resolve().is_relative_to(base / "root")
