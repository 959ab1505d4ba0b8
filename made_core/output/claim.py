"""One run an output folder: its mark says whose it is."""

from __future__ import annotations

import json
import posixpath

from made_core.errors import OutputError
from made_core.io import files, paths
from made_core.io.storage import translated_errors
from made_core.recipe import Recipe


def claim_output(recipe: Recipe, run: str, replace: bool, log_folder: str | None) -> None:
    """Marks the output folder as the run's. Raises OutputError as `check_claim` does."""
    known, mine = check_claim(recipe, replace, log_folder), {"run": run, "identity": recipe.identity}
    if known != mine:
        files.put_bytes(files.join(recipe.output, paths.RUN_MARK), json.dumps(mine).encode())


def check_claim(recipe: Recipe, replace: bool, log_folder: str | None) -> dict[str, str] | None:
    """The mark that the output folder has, None without one; changes nothing.

    Raises:
        OutputError: it holds what is not ours, or another run's output and not `replace`.
    """
    try:
        known: dict[str, str] | None = json.loads(files.read(files.join(recipe.output, paths.RUN_MARK)))
    except (FileNotFoundError, ValueError):
        known = None
        ours = [files.absolute(place) for place in (recipe.store_url, log_folder) if place]
        for child in sorted(_children(recipe.output)):
            if not any(paths.inside(place, files.join(recipe.output, child)) for place in ours):
                raise OutputError(
                    f"{recipe.output} holds {child} and is no run's: name an empty folder"
                ) from None
    if known is not None and known.get("identity") != recipe.identity and not replace:
        raise OutputError(
            f"{recipe.output} belongs to run {known.get('run')} of another recipe; --replace takes it over"
        )
    return known


def _children(url: str) -> set[str]:
    fs, path = files.filesystem(url)
    with translated_errors(url):
        if not fs.exists(path):
            return set()
        return {posixpath.basename(p.rstrip("/")) for p in fs.ls(path, detail=False)}
