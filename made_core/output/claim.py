"""Claims an output folder for a run: run.json names the run that owns it."""

from __future__ import annotations

import posixpath

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from made_core.errors import TAKE_OVER, OutputError
from made_core.io import files, paths, probe
from made_core.io.storage import translated_errors
from made_core.recipe import Recipe


class RunMark(BaseModel):
    """The content of run.json: the run that owns the output folder, and its recipe."""

    model_config = ConfigDict(frozen=True)

    run: str
    # versions before 0.2 wrote `identity`
    recipe_digest: str = Field(validation_alias=AliasChoices("recipe_digest", "identity"))
    recipe: dict[str, JsonValue] | None = None  # as requested; versions before 0.2 wrote none


def claim_output(recipe: Recipe, run: str, replace: bool, log_folder: str | None) -> bool:
    """Writes run.json for the run, unless it is there. Raises OutputError as `check_claim`.

    Returns:
        Whether the output belonged to no run before.
    """
    known = check_claim(recipe, replace, log_folder)
    mine = RunMark(run=run, recipe_digest=recipe.recipe_digest, recipe=recipe.model_dump(mode="json"))
    if known != mine:
        text = mine.model_dump_json(indent=4)
        files.put_bytes(files.join(recipe.output, paths.RUN_MARK), text.encode())
    return known is None


def give_back(recipe: Recipe) -> None:
    """Removes the run.json of a run that has written nothing else, so that any recipe can have its output."""
    files.remove(files.join(recipe.output, paths.RUN_MARK))


def check_claim(recipe: Recipe, replace: bool, log_folder: str | None) -> RunMark | None:
    """The content of the output folder's run.json, None if it has none; changes nothing.

    Raises:
        OutputError: the folder has other files and no run.json, or a damaged one, or belongs to a run with
            another recipe and `replace` is false.
    """
    mark = files.join(recipe.output, paths.RUN_MARK)
    try:
        known = RunMark.model_validate_json(files.read(mark))
    except ValidationError:
        raise OutputError(
            f"{mark} does not name a run: it is damaged, or not a file of made; name another output, or "
            "remove the file and all others in its folder"
        ) from None
    except FileNotFoundError:
        ours = [files.absolute(url) for url in (recipe.store_url, log_folder) if url]
        for child in sorted(_children(recipe.output)):
            if child.startswith(probe.PREFIX):  # of another command's check, now or before it was killed
                continue
            if not any(paths.inside(url, files.join(recipe.output, child)) for url in ours):
                raise OutputError(
                    f"{recipe.output} contains {child} but no run.json, so it is not the output of a run; "
                    "name an empty folder"
                ) from None
        return None
    if known.recipe_digest != recipe.recipe_digest and not replace:
        raise OutputError(f"{recipe.output} belongs to run {known.run} with another recipe; {TAKE_OVER}")
    return known


def _children(url: str) -> set[str]:
    fs, path = files.filesystem(url)
    with translated_errors(url):
        if not fs.exists(path):
            return set()
        return {posixpath.basename(p.rstrip("/")) for p in fs.ls(path, detail=False)}
