"""One run an output folder: its mark says whose it is."""

from __future__ import annotations

import posixpath

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from made_core.errors import OutputError
from made_core.io import files, paths
from made_core.io.storage import translated_errors
from made_core.recipe import Recipe


class RunMark(BaseModel):
    """What run.json holds: whose the output folder is."""

    model_config = ConfigDict(frozen=True)

    run: str
    # `identity` is what versions before 0.2 wrote
    recipe_digest: str = Field(validation_alias=AliasChoices("recipe_digest", "identity"))


def claim_output(recipe: Recipe, run: str, replace: bool, log_folder: str | None) -> None:
    """Marks the output folder as the run's. Raises OutputError as `check_claim` does."""
    known = check_claim(recipe, replace, log_folder)
    mine = RunMark(run=run, recipe_digest=recipe.recipe_digest)
    if known != mine:
        files.put_bytes(files.join(recipe.output, paths.RUN_MARK), mine.model_dump_json().encode())


def check_claim(recipe: Recipe, replace: bool, log_folder: str | None) -> RunMark | None:
    """The mark that the output folder has, None without one; changes nothing.

    Raises:
        OutputError: it holds files of something else, or another run's output and not `replace`.
    """
    try:
        known = RunMark.model_validate_json(files.read(files.join(recipe.output, paths.RUN_MARK)))
    except (FileNotFoundError, ValidationError):
        ours = [files.absolute(place) for place in (recipe.store_url, log_folder) if place]
        for child in sorted(_children(recipe.output)):
            if not any(paths.inside(place, files.join(recipe.output, child)) for place in ours):
                raise OutputError(
                    f"{recipe.output} holds {child} and has no run.json, so it is not the output of a run; "
                    "name an empty folder"
                ) from None
        return None
    if known.recipe_digest != recipe.recipe_digest and not replace:
        raise OutputError(
            f"{recipe.output} belongs to run {known.run} of another recipe; --replace takes it over"
        )
    return known


def _children(url: str) -> set[str]:
    fs, path = files.filesystem(url)
    with translated_errors(url):
        if not fs.exists(path):
            return set()
        return {posixpath.basename(p.rstrip("/")) for p in fs.ls(path, detail=False)}
