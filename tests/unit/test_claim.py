"""An output folder says which run it belongs to, and by which recipe."""

from __future__ import annotations

import json
from pathlib import Path

from made_core.io import probe
from made_core.output.claim import check_claim, claim_output
from made_core.recipe import Recipe
from made_core.recipe_file import validate


def test_the_recipe_is_in_the_output(tmp_path: Path) -> None:
    """As requested; resuming with other `work` updates it."""
    values = {"sources": ["in"], "output": str(tmp_path / "out"), "filters": {"min_side": 200}}
    for work in ({}, {"shards_per_task": 3}):
        recipe = validate({**values, "work": work}, None)
        claim_output(recipe, "run-1", replace=False, log_folder=None)
        mark = json.loads((tmp_path / "out" / "run.json").read_text())
        assert mark["run"] == "run-1" and Recipe.model_validate(mark["recipe"]) == recipe


def test_an_output_of_an_earlier_version_is_its_runs(tmp_path: Path) -> None:
    """Its run.json has no recipe; it gets one."""
    recipe = validate({"sources": ["in"], "output": str(tmp_path)}, None)
    (tmp_path / "run.json").write_text(json.dumps({"run": "run-1", "identity": recipe.recipe_digest}))
    claim_output(recipe, "run-1", replace=False, log_folder=None)
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["sources"] == ["in"]


def test_a_probe_of_another_command_is_no_content(tmp_path: Path) -> None:
    """Left by a command that was killed, or there for a moment."""
    (tmp_path / f"{probe.PREFIX}0").touch()
    recipe = validate({"sources": ["in"], "output": str(tmp_path)}, None)
    assert check_claim(recipe, False, None) is None
