"""Publishing: attempts' files move to their places in the output, all or none."""

from __future__ import annotations

from collections.abc import Sequence

from made_core.errors import DamagedFile
from made_core.io import files, paths
from made_core.output import summary
from made_core.stages import STAGES
from made_core.types import FileRef


def decisions_of(output: str) -> str | None:
    """The digest of the decisions that a finished output holds; None: it is not finished."""
    found = summary.read(output)
    return None if found is None else found.decisions_digest


def present(output: str, refs: Sequence[FileRef], is_published: bool) -> bool:
    """Whether a done unit's files are there: as its attempt put them, or published.

    A published file of the right size may be of older decisions, unless the output `is_published`
    with these: then its content decides.
    """
    return all(_where(output, ref, is_published) is not None for ref in refs)


def unmark(output: str) -> None:
    """Says that an output is not whole, by removing its summary."""
    files.remove(files.join(output, paths.SUMMARY))


def publish(output: str, refs: Sequence[FileRef]) -> None:
    """Moves the attempts' files to their places and removes all others; may be done again.

    The summary goes first and is put last, by the caller: where it stands, the output is whole.

    Raises:
        DamagedFile: a file is neither where its attempt put it nor in its place.
    """
    unmark(output)
    wanted = {paths.published(output, ref.path) for ref in refs}
    for folder in sorted({stage.folder for stage in STAGES if stage.in_output}):
        url = files.join(output, folder)
        for name in files.names(url) if files.exists(url) else ():
            if files.join(url, name) not in wanted:
                files.remove(files.join(url, name))
    for ref in refs:
        where = _where(output, ref, is_published=False)
        if where is None:
            raise DamagedFile(f"{ref.path} is gone before it was published")
        if where == ref.path:
            files.move(where, paths.published(output, ref.path))
    for name in (*paths.SWEEP, paths.PARTS):
        files.remove(files.join(output, name))


def _where(output: str, ref: FileRef, is_published: bool) -> str | None:
    if _size(ref.path) == ref.size:
        return ref.path
    target = paths.published(output, ref.path)
    if _size(target) != ref.size:
        return None
    if is_published:
        return target
    with files.local(target) as path:
        return target if files.file_digest(path) == ref.digest else None


def _size(url: str) -> int | None:
    try:
        return files.size(url)
    except FileNotFoundError:
        return None
