"""Roots: the folders and URLs below which everything that a recipe names must be (`MADE_ROOTS`).

Local paths are compared as the system resolves them, so a symbolic link or `..` does not lead out. Whoever
asks is not told whether something outside exists: it is answered like something that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from made_core.errors import EncoderError, OutputError, SourceError
from made_core.ingest import discovery
from made_core.io import files, paths
from made_core.recipe import Recipe

Roots = Sequence[str]  # absolute folders and URLs
GLOB = "*?["


def confine(recipe: Recipe, roots: Roots | None) -> None:
    """Checks, before any of them is read, that all paths of a recipe are inside the roots.

    Args:
        roots: None: everything is allowed.

    Raises:
        SourceError: a source is outside, or does not exist.
        OutputError: the output or the store is outside.
        EncoderError: the encoder's config or checkpoint is outside, or does not exist.
    """
    if roots is None:
        return
    for source in recipe.sources:
        for folder in _folders(files.absolute(source), roots):
            if not (inside(folder, roots) and files.exists(folder)):
                raise SourceError(f"{source}: no such folder or file in the folders allowed here")
    confine_folder("output", recipe.output, roots)
    confine_folder("store", recipe.store_url, roots)
    encoder = recipe.encoder
    named = {"encoder.config": encoder.config or ""}
    pretrained = encoder.pretrained or ""
    if paths.is_checkpoint(pretrained) or os.path.lexists(files.absolute(pretrained)):
        named["encoder.pretrained"] = pretrained
        beside = files.join(os.path.dirname(files.absolute(pretrained)), paths.PREPARED)
        if os.path.lexists(beside):
            named[f"{paths.PREPARED} beside encoder.pretrained"] = beside
    for name, file in named.items():
        if file and not (inside(file, roots) and os.path.isfile(files.absolute(file))):
            raise EncoderError(f"{name}: {file}: no such file in the folders allowed here")


def confine_folder(name: str, folder: str, roots: Roots | None) -> None:
    """Checks that a folder that a run writes to is inside the roots. Raises OutputError."""
    if roots is not None and not inside(folder, roots):
        raise OutputError(f"{name}: {folder} is not in the folders allowed here; name another folder")


def confine_tars(tars: Iterable[str], roots: Roots | None) -> None:
    """Checks that the tars that were found, and their stats, do not lead out of the roots by a link.

    Raises:
        SourceError: one does.
    """
    if roots is None:
        return
    for tar in tars:
        if not (inside(tar, roots) and inside(discovery.stats_of(tar), roots)):
            raise SourceError(f"{tar}: no such folder or file in the folders allowed here")


def inside(url: str, roots: Roots) -> bool:
    """Whether a path or URL is one of the roots, or below one."""
    if files.is_local(url):
        folders = [files.real(root) for root in roots if files.is_local(root)]
        return any(paths.inside(files.real(url), folder) for folder in folders)
    plain = url.lower().replace("%2e", ".")
    if "::" in url or ".." in plain.split("/"):  # fsspec's chains of protocols; a server may resolve ..
        return False
    return any(paths.inside(url.rstrip("/"), root.rstrip("/")) for root in roots if not files.is_local(root))


def _folders(source: str, roots: Roots) -> set[str]:
    """The folders that a source is looked up in, without reading any that is outside the roots."""
    if "{" not in source or (inside(source, roots) and files.exists(source)):
        urls = [source]
    else:
        urls = discovery.expand_braces(source)
    return {_folder(url) for url in urls}


def _folder(url: str) -> str:
    """The folder of a tar, the one from which a pattern is looked up, or the folder itself."""
    parts = url.split("/")
    for number, part in enumerate(parts):
        if any(c in part for c in GLOB) or (part.endswith(".tar") and number == len(parts) - 1):
            return "/".join(parts[:number])
    return url
