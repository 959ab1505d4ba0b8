"""A recipe reports each error in one line, and its digest covers what decides the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from made_core import recipe
from made_core.errors import RecipeError, UserError
from made_core.recipe import Recipe
from made_core.recipe_dedup import Dedup
from made_core.recipe_file import load

GIVEN: dict[str, Any] = {"sources": ["in"], "output": "out"}


def message(values: dict[str, Any], sets: tuple[str, ...] = ()) -> str:
    """The error of `values` and `--set`s."""
    with pytest.raises(RecipeError) as caught:
        load(None, values, list(sets))
    text = str(caught.value)
    assert "\n" not in text
    assert isinstance(caught.value, UserError)
    return text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sorces": ["x"]}, ["sorces: unknown field; did you mean sources? allowed here: sources, output"]),
        ({"colour": 1}, ["colour: unknown field; allowed here: sources, output, store, encoder"]),
        ({"dedup": {"epz": 0.1}}, ["dedup.epz: unknown field", "rule, eps, eps_max, keep"]),
        ({"dedup": {"eps": 1.5}}, ["dedup.eps: ", "less than 1", "1.5"]),
        ({"dedup": {"eps": 0}}, ["dedup.eps: ", "greater than or equal to 0.000000001", "0"]),
        ({"dedup": {"eps": 1e-20}}, ["dedup.eps: ", "greater than or equal to 0.000000001", "1e-20"]),
        ({"dedup": {"eps_max": 1e-20}}, ["dedup.eps_max: ", "greater than or equal to 0.000000001", "1e-20"]),
        ({"dedup": {"eps": float("nan")}}, ["dedup.eps: ", "finite"]),
        ({"dedup": {"eps": "much"}}, ["dedup.eps: ", "valid number", "'much'"]),
        ({"dedup": {"eps": 0.2, "eps_max": 0.1}}, ["eps is 0.2", "up to eps_max, 0.1"]),
        ({"dedup": {"rule": "best"}}, ["dedup.rule: ", "'cover' or 'reference'", "'best'"]),
        ({"dedup": {"keep": "column"}}, ["dedup: ", "keep is column, keep_column is not set"]),
        ({"dedup": {"keep_column": "score"}}, ["dedup: ", "keep is auto, keep_column is score"]),
        ({"dedup": [1]}, ["dedup: expected a mapping of fields (it is [1])"]),
        ({"sources": []}, ["sources: ", "at least 1"]),
        ({"sources": {"a": 1}}, ["sources: ", "{'a': 1}"]),
        ({"sources": [""]}, ["sources.0: ", "at least 1 character"]),
        ({"output": 5}, ["output: ", "valid string", "5"]),
        ({"output": ""}, ["output: ", "at least 1 character"]),
        ({"clusters": {"probes": 65}}, ["clusters.probes: ", "less than or equal to 64", "65"]),
        ({"clusters": {"probes": 1.5}}, ["clusters.probes: ", "valid integer", "1.5"]),
        ({"clusters": {"k": 0}}, ["clusters.k: ", "greater than or equal to 1 or 'auto' (it is 0)"]),
        ({"encoder": {"batch_size": "big"}}, ["encoder.batch_size", "valid integer", "'auto'", "'big'"]),
        ({"encoder": {"batch_size": 70000}}, ["encoder.batch_size: ", "65536 or 'auto' (it is 70000)"]),
        ({"clusters": {"k": 10**29}}, ["clusters.k: ", "less than or equal to 1000000 or 'auto'"]),
        ({"work": {"attempts": None}}, ["work.attempts: ", "(it is null)"]),
        ({"sources": [3]}, ["sources.0: ", "valid string"]),
        ({"encoder": {"model": "ViT-B-32"}}, ["encoder: ", "needs `pretrained`"]),
        ({"encoder": {"pretrained": "openai"}}, ["encoder: ", "built in: remove `pretrained` and `config`"]),
        ({"encoder": {"device": "tpu"}}, ["encoder.device: ", "'auto', 'cpu' or 'cuda'", "'tpu'"]),
        ({"work": {"max_failed_share": 2}}, ["work.max_failed_share: ", "less than or equal to 1"]),
        ({"filters": {"max_aspect": 0.5}}, ["filters.max_aspect: ", "greater than or equal to 1"]),
        ({"work": {"gpus_per_task": 1.5}}, ["work: gpus_per_task is 1.5; allowed: auto, 0 to 1, or a whole"]),
    ],
)
def test_one_line_names_the_field_and_what_is_allowed(values: dict[str, Any], expected: list[str]) -> None:
    text = message(GIVEN | values)
    assert all(part in text for part in expected), text


def test_all_errors_are_reported_at_once() -> None:
    text = message({"sources": ["in"], "clusters": {"probes": 0}, "dedup": {"epz": 1}})
    assert "output: missing" in text
    assert "clusters.probes: " in text
    assert "dedup.epz: unknown" in text


def test_a_file_may_name_one_source_without_a_list() -> None:
    assert load(None, GIVEN | {"sources": "in"}, []).sources == ("in",)


@pytest.mark.parametrize("wanting", ["sources", "output"])
def test_missing_field(wanting: str) -> None:
    assert f"{wanting}: missing" in message({k: v for k, v in GIVEN.items() if k != wanting})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"- a\n- b\n", "expected a mapping of fields, found a list"),
        (b"just words", "expected a mapping of fields, found a str"),
        (b"dedup: {eps: [", "not valid YAML"),
        (b"a: 1\n\tb: 2", "not valid YAML"),
        (b"output: \xff\xfe", "recipe.yaml: not a text; expected YAML in UTF-8"),
        ("output: x".encode("utf-16"), "recipe.yaml: not a text; expected YAML in UTF-8"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"", "sources: missing; --source sets it; output: missing; --output sets it"),
        (b"dedup:\n  eps: 0.1\n  rule: cover\n  eps: 0.2\n", "eps is given again in line 4"),
        (b"<<: {sources: [a]}\noutput: b\n? [x]\n: 1\n", "x"),
    ],
)
def test_a_file_that_is_not_a_recipe(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load(str(path), {}, [])
    text = str(caught.value)
    assert expected in text
    assert str(path) in text
    assert "\n" not in text


def test_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError, match=path.name) as caught:
            load(str(path), {}, [])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("dedup.eps", "--set dedup.eps: expected field=value"),
        ("dedup.eps=[", "--set dedup.eps=[: not valid YAML"),
        ("dedup.epz=1", "dedup.epz: unknown field"),
        ("dedupe.eps=1", "dedupe: unknown field"),
        ("dedup=3", "dedup: "),
        ("=3", "unknown field"),
        ("dedup.eps.deep=3", "dedup.eps: "),
    ],
)
def test_an_invalid_set(item: str, expected: str) -> None:
    assert expected in message(GIVEN, (item,))


def test_sets_go_over_overrides_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("sources: [a, b]\noutput: one\nstore: kept\ndedup: {eps: 0.1, seed: 7}\n")
    found = load(str(path), {"output": "two", "store": None}, ["output=three", "dedup.eps = 0.2"])
    assert found.output == "three"
    assert found.sources == ("a", "b")
    assert found.store == "kept"
    assert (found.dedup.eps, found.dedup.seed) == (0.2, 7)
    assert load(str(path), {"output": "two"}, []).output == "two"
    assert load(str(path), {}, ["dedup.seed=1", "dedup.seed=2", "dedup.eps="]).dedup.model_dump(
        include={"seed", "eps"}
    ) == {"seed": 2, "eps": None}


@pytest.mark.parametrize(
    "change",
    [
        {"dedup": {"eps": 0.05}},
        {"sources": ["other"]},
        {"writing": {"samples_per_shard": 5}},
        {"writing": {"shards": False}},
        {"filters": {"min_side": 5}},
        {"encoder": {"batch_size": 5}},
        {"clusters": {"seed": 5}},
        {"reading": {"max_pixels": 5}},
        {"admission": {"require_stats": False}},
    ],
)
def test_digest_changes_with_what_decides_the_output(change: dict[str, Any]) -> None:
    assert Recipe(**GIVEN).recipe_digest != Recipe(**(GIVEN | change)).recipe_digest


@pytest.mark.parametrize(
    "change", [{"output": "elsewhere"}, {"store": "shared"}, {"work": {"attempts": 9, "block_rows": 1}}]
)
def test_digest_ignores_how_and_where(change: dict[str, Any]) -> None:
    same = Recipe(**GIVEN)
    assert same.recipe_digest == Recipe(**(GIVEN | change)).recipe_digest
    assert len(same.recipe_digest) == 16
    int(same.recipe_digest, 16)


def test_digests_of_earlier_versions_stay() -> None:
    """An output that they wrote is not refused as that of another recipe."""
    assert Recipe(**GIVEN).recipe_digest == "b6991012628178e2"


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    first = Recipe(
        sources=("a", "b/{00..03}.tar"),
        output="s3://bucket/ü",
        encoder=recipe.Encoder(model="ViT-B-32", pretrained="openai", batch_size=7),
        dedup=Dedup(eps=0.07, keep="column", keep_column="score"),
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(first.model_dump(mode="json")), encoding="utf-8")
    again = load(str(path), {}, [])
    assert again == first
    assert again.recipe_digest == first.recipe_digest


def test_store_is_in_the_output_by_default() -> None:
    assert Recipe(sources=("a",), output="out/").store_url == "out/store"
    assert Recipe(sources=("a",), output="out", store="s3://b/s").store_url == "s3://b/s"


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe(**GIVEN).dedup.__setattr__("eps", 0.5)
