"""Where a run reads and writes: paths made absolute, input kept apart from output, one run a folder."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable

from made_core import files
from made_core.errors import OutputError
from made_core.recipe import Recipe

MARK = "run.json"  # says whose an output folder is


def located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, its sources sorted and each once."""
    sources = tuple(sorted({files.absolute(s) for s in recipe.sources}))
    output, store = files.absolute(recipe.output), files.absolute(recipe.store_url)
    encoder = recipe.encoder
    paths = {
        name: files.absolute(value)
        for name in ("pretrained", "config")
        if (value := getattr(encoder, name)) and files.is_local(value) and files.exists(value)
    }
    return recipe.model_copy(
        update={
            "sources": sources,
            "output": output,
            "store": store,
            "encoder": encoder.model_copy(update=paths),
        }
    )


def keep_apart(recipe: Recipe, tars: Iterable[str], log_folder: str | None) -> None:
    """Sees to it that input is never written to; `recipe` is a located one.

    Raises:
        OutputError: output, store or logs lie in a folder that holds a tar, or that in the shards.
    """
    shards = files.join(recipe.output, "shards")
    places = {"output": recipe.output, "store": recipe.store_url}
    if log_folder is not None:
        places["log folder"] = files.absolute(log_folder)
    for folder in sorted({posixpath.dirname(tar) for tar in tars}):
        for name, place in places.items():
            if _inside(place, folder):
                raise OutputError(f"{name} {place} lies in the source {folder}: nothing is written there")
        if _inside(folder, shards):
            raise OutputError(f"the source {folder} lies in the output {recipe.output}")


def claim_output(recipe: Recipe, run: str, replace: bool, log_folder: str | None) -> None:
    """Marks the output folder as the run's.

    Raises:
        OutputError: it holds what is not ours, or another run's output and not `replace`.
    """
    mark = files.join(recipe.output, MARK)
    mine = {"run": run, "identity": recipe.identity}
    try:
        known = json.loads(files.read(mark))
    except (FileNotFoundError, ValueError):
        known = None
        ours = [files.absolute(place) for place in (recipe.store_url, log_folder) if place]
        for child in sorted(_children(recipe.output)):
            if not any(_inside(place, files.join(recipe.output, child)) for place in ours):
                raise OutputError(
                    f"{recipe.output} holds {child} and is no run's: name an empty folder"
                ) from None
    if known is not None and known.get("identity") != recipe.identity and not replace:
        raise OutputError(
            f"{recipe.output} belongs to run {known.get('run')} of another recipe; --replace takes it over"
        )
    if known != mine:
        files.put_bytes(mark, json.dumps(mine).encode())


def _children(url: str) -> set[str]:
    fs, path = files.filesystem(url)
    if not fs.exists(path):
        return set()
    return {posixpath.basename(p.rstrip("/")) for p in fs.ls(path, detail=False)}


def _inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")
