"""Where a run reads and writes: paths made absolute, input kept apart from output, one run a folder."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Any

from made_core.errors import OutputError
from made_core.io import files
from made_core.recipe import Recipe
from made_core.stages import Stage
from made_core.types import Unit

RUN_MARK = "run.json"  # says whose an output folder is
PARTS = ".parts"  # of an output: what attempts put and nothing published yet
SUMMARY = "summary.json"
SWEEP = ("sweep.html", "sweep.json")  # of `made sweep`, on these decisions


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
            if inside(place, folder):
                raise OutputError(f"{name} {place} lies in the source {folder}: nothing is written there")
        if inside(folder, shards):
            raise OutputError(f"the source {folder} lies in the output {recipe.output}")


def inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")


def stage_folder(store: str, stage: Stage[Any], scope: str) -> str:
    """The folder in the store that holds a stage's files of one scope."""
    return files.join(store, stage.folder, scope)


def unit_url(store: str, stage: Stage[Any], scope: str, unit: Unit) -> str:
    """What the names of an attempt's files in the store begin with: no other attempt has it."""
    return files.join(stage_folder(store, stage, scope), unit.name)


def part_url(output: str, stage: Stage[Any], scope: str, name: str, unit: Unit) -> str:
    """Where an attempt puts a file of the output before it is published: no other attempt has it.

    `<output>/.parts/<scope>/<attempt>/<folder>/<name>`; `published` is its inverse.
    """
    attempt = f"{unit.attempt}-{unit.token[:6]}"
    return files.join(output, PARTS, scope, attempt, stage.folder, name)


def published(output: str, part: str) -> str:
    """Where a file that an attempt wrote lies in the finished output."""
    *_, folder, name = part.rsplit("/", 2)
    return files.join(output, folder, name)
