"""A request is checked before anything starts, whatever the API let through; each mistake is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import refused, request
from made_core.errors import UserError
from made_core.settings import Settings

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # the ledger is asked last


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with one finished shard."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "00000.tar").write_bytes(bytes(10240))
    (folder / "00000_stats.json").write_text('{"successes": 1}')
    return folder


def message(recipe: object, replace: object = False, deployed: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        request.checked(NOWHERE, recipe, replace, deployed)
    text = str(caught.value)
    assert "\n" not in text
    state = refused.failed(caught.value)
    assert state.is_failed() and state.message == text and state.data is caught.value
    return text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"encoder": {"model": "ViT-B-23", "pretrained": "openai"}},
            "no model ViT-B-23; did you mean ViT-B-32",
        ),
        ({"sources": ["/nowhere/shards"]}, "source: no such folder: /nowhere/shards"),
        ({"output": "relative/out"}, "output: relative/out is a relative path"),
        ({"output": "file://relative/out"}, "output: file://relative/out is a relative path"),
        ({"store": "store"}, "store: store is a relative path"),
        ({"sources": ["shards"]}, "sources: shards is a relative path"),
        ({"encoder": {"model": "m", "pretrained": "w.pt"}}, "encoder.pretrained: w.pt is a relative path"),
        ({"dedup": {"eps": "much"}}, "dedup.eps: Input should be a valid number"),
        ({"dedup": {"eps": float("nan")}}, "dedup.eps: Input should be a finite number"),
        ({"dedup": None}, "dedup: expected a mapping of fields (it is null)"),
        ({"clusters": {"k": 10**29}}, "clusters.k: Input should be less than or equal to 1000000"),
        ({"quiet": True}, "quiet: unknown field"),
    ],
)
def test_mistakes(shards: Path, tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    valid = {"sources": [str(shards)], "output": str(tmp_path / "out")}
    assert expected in message(valid | change)


@pytest.mark.parametrize("recipe", [None, 5, "x", [], {}])
def test_no_recipe(recipe: object) -> None:
    assert message(recipe).startswith("recipe: ")


def test_replace_is_a_bool(shards: Path, tmp_path: Path) -> None:
    valid = {"sources": [str(shards)], "output": str(tmp_path / "out")}
    assert message(valid, "yes") == "recipe: replace: expected true or false (it is 'yes')"


def test_a_tar_out_of_the_roots(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Confined before anything is read, and again when the tars are known."""
    monkeypatch.setattr(request, "settings", lambda: Settings(roots=str(tmp_path / "other")))
    valid = {"sources": [str(shards)], "output": str(tmp_path / "out")}
    assert "no such folder or file in the folders allowed here" in message(valid)
