"""An output folder says which run it belongs to, and by which recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_core.errors import OutputError
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


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"run": "run-1"}'])
def test_a_damaged_mark_is_named(tmp_path: Path, damaged: str) -> None:
    """The output is nobody's to take, not even with --replace."""
    (tmp_path / "run.json").write_text(damaged)
    recipe = validate({"sources": ["in"], "output": str(tmp_path)}, None)
    for replace in (False, True):
        with pytest.raises(OutputError, match=r"run\.json does not name a run: it is damaged"):
            claim_output(recipe, "run-1", replace, None)
    assert (tmp_path / "run.json").read_text() == damaged


def test_a_folder_of_other_files_is_no_output(tmp_path: Path) -> None:
    """Those of the run's own store and log folder are none; without other files the output is new once."""
    values = {"sources": ["in"], "output": str(tmp_path), "store": str(tmp_path / "store")}
    recipe, logs = validate(values, None), str(tmp_path / "logs" / "of_made")
    for name in ("store", "logs/of_made"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "store.old").touch()
    for replace in (False, True):
        with pytest.raises(OutputError, match=r"contains store\.old but no run\.json"):
            claim_output(recipe, "run-1", replace, logs)
    (tmp_path / "store.old").unlink()
    with pytest.raises(OutputError, match=r"contains logs but no run\.json"):
        claim_output(recipe, "run-1", False, None)
    assert claim_output(recipe, "run-1", False, logs) and not claim_output(recipe, "run-1", False, logs)
    other = validate({**values, "filters": {"min_side": 200}}, None)
    with pytest.raises(OutputError, match="belongs to run run-1 with another recipe"):
        claim_output(other, "run-2", False, logs)
    assert not claim_output(other, "run-2", True, logs)
    assert json.loads((tmp_path / "run.json").read_text())["run"] == "run-2"
