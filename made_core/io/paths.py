"""Names in the store and the output, and checks that a run does not write to its input."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Set
from typing import Any

from made_core.errors import OutputError, RecipeError
from made_core.io import files
from made_core.recipe import Recipe
from made_core.stages import Stage
from made_core.types import Unit

RUN_MARK = "run.json"  # names the run that an output folder belongs to
PARTS = ".parts"  # folder in the output for files of attempts that are not published yet
SUMMARY = "summary.json"
KEEP, KEEP_ARRAY, ACCOUNTS, REPORT = "keep.parquet", "keep.npy", "accounts.parquet", "report.html"
SIZES = "sizes.json"  # beside the output shards
PREPARED = "open_clip_config.json"  # beside weights: how images are prepared for them
# Files of `made sweep` and `made review`, which describe the current decisions.
SWEEP = ("sweep.html", "sweep.json")
REVIEW = "review.html"


def located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths and its sources sorted, without repetitions."""
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


def refuse_relative(recipe: Recipe) -> None:
    """Checks that every path of a recipe is absolute, a URL or below a home folder (~).

    Raises:
        RecipeError: one is relative.
    """
    encoder = recipe.encoder
    named: list[tuple[str, str | None]] = [("sources", source) for source in recipe.sources]
    named += [("output", recipe.output), ("store", recipe.store), ("encoder.config", encoder.config)]
    if is_checkpoint(encoder.pretrained or ""):
        named.append(("encoder.pretrained", encoder.pretrained))
    for name, url in named:
        if url and files.is_local(url) and not url.split("://", 1)[-1].startswith(("/", "~")):
            raise RecipeError(
                f"{name}: {url} is a relative path, which a deployment's run has no folder for; "
                "name an absolute path or a URL"
            )


def is_checkpoint(pretrained: str) -> bool:
    """Whether `encoder.pretrained` names a checkpoint file, and not one of open_clip's tags."""
    return "/" in pretrained or pretrained.endswith((".pt", ".pth", ".bin", ".safetensors"))


def keep_apart(recipe: Recipe, tars: Iterable[str], log_folder: str | None) -> None:
    """Checks that the run never writes to its input, also through symbolic links.

    Args:
        recipe: from `located`.

    Raises:
        OutputError: output, store or log folder are inside a source folder, or a source folder is
            inside the output's shards.
    """
    shards = files.join(recipe.output, "shards")
    targets = {"output": recipe.output, "store": recipe.store_url}
    if log_folder is not None:
        targets["log folder"] = files.absolute(log_folder)
    for folder in sorted(_folders(set(tars))):
        for name, url in targets.items():
            if inside(files.real(url), folder):
                raise OutputError(
                    f"{name} {url} is inside the source folder {folder}, which must not be written to; "
                    "name a folder outside it"
                )
        if inside(folder, files.real(shards)):
            raise OutputError(
                f"the source folder {folder} is inside the output {recipe.output}; name another output"
            )


def _folders(tars: Set[str]) -> set[str]:
    """The folders that the tars are in, without symbolic links; of a tar that is one, its target's too."""
    named = {posixpath.dirname(tar) for tar in tars}
    links: list[str] = []
    for folder in named:
        if files.is_local(folder):
            with os.scandir(folder) as entries:  # it knows links without a further system call for each
                links += [entry.path for entry in entries if entry.is_symlink() and entry.path in tars]
    return {files.real(folder) for folder in named} | {posixpath.dirname(files.real(link)) for link in links}


def inside(url: str, folder: str) -> bool:
    """Whether `url` is `folder` or below it; both absolute."""
    return url == folder or url.startswith(folder.rstrip("/") + "/")


def stage_folder(store: str, stage: Stage[Any], scope: str) -> str:
    """The folder in the store for a stage's files of one scope."""
    return files.join(store, stage.folder, scope)


def unit_url(store: str, stage: Stage[Any], scope: str, unit: Unit) -> str:
    """The prefix of the URLs of an attempt's files in the store, unique to the attempt."""
    return files.join(stage_folder(store, stage, scope), unit.name)


def part_url(output: str, stage: Stage[Any], scope: str, name: str, unit: Unit) -> str:
    """The URL of an attempt's output file before it is published, unique to the attempt.

    `<output>/.parts/<scope>/<attempt>/<folder>/<name>`; `published` maps it to the final URL.
    """
    attempt = f"{unit.attempt}-{unit.token[:6]}"
    return files.join(output, PARTS, scope, attempt, stage.folder, name)


def published(output: str, part: str) -> str:
    """The URL in the finished output of the file that an attempt wrote to `part` (see `part_url`)."""
    *_, folder, name = part.rsplit("/", 2)
    return files.join(output, folder, name)
