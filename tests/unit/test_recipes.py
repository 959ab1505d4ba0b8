"""The recipes that we ship load, and the annotated one has the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from made_core import recipe
from made_core.recipe_file import load

FOLDER = Path(__file__).parents[2] / "deployments" / "recipes"
PLACES = {"sources": ["in"], "output": "out"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_load(path: Path) -> None:
    assert load(str(path), dict(PLACES), []).sources == ("in",)


def test_the_annotated_recipe_has_every_field_with_its_default() -> None:
    path = FOLDER / "annotated.yaml"
    assert load(str(path), dict(PLACES), []) == load(None, dict(PLACES), [])
    text = path.read_text(encoding="utf-8")
    for name, part in recipe.Recipe.model_fields.items():
        assert f"{name}:" in text
        for field in getattr(part.annotation, "model_fields", {}):
            assert f"{field}:" in text, f"{name}.{field}"
    assert set(yaml.safe_load(text)) <= set(recipe.Recipe.model_fields)
