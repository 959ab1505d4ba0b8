"""Publishing: moves the files of attempts to their final URLs in the output."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from made_core.errors import DamagedFile
from made_core.io import files, paths, stored
from made_core.output import summary
from made_core.stages import STAGES
from made_core.types import FileRef

SLICE = 4096  # files that are on their way at a time


def decisions_of(output: str) -> str | None:
    """The decisions digest of a finished output; None if it is not finished."""
    finished = summary.read(output)
    return None if finished is None else finished.decisions_digest


def present(output: str, refs: Sequence[FileRef], is_published: bool) -> bool:
    """Whether a done unit's files exist, where its attempt wrote them or published.

    Unless the output `is_published` with these decisions, a published file may belong to older ones, so
    its content is compared and not only its size.
    """
    return all(_where(output, ref, is_published) is not None for ref in refs)


def is_complete(output: str, hex_uids: bool, shards: bool) -> bool:
    """Whether all files that publishing writes itself are there.

    Args:
        hex_uids: the keep array too. shards: the sizes of the output shards too.
    """
    names = [paths.KEEP, paths.ACCOUNTS, paths.REPORT, paths.SUMMARY]
    names += [paths.KEEP_ARRAY] if hex_uids else []
    names += [files.join("shards", paths.SIZES)] if shards else []
    return all(files.exists(files.join(output, name)) for name in names)


def unmark(output: str) -> None:
    """Marks an output as incomplete by removing its summary."""
    files.remove(files.join(output, paths.SUMMARY))


def publish(output: str, refs: Sequence[FileRef]) -> None:
    """Moves the attempts' files to their final URLs and removes all other files. Idempotent.

    Removes the summary first; the caller writes it last, so an output with a summary is complete.

    Raises:
        DamagedFile: a file is neither where its attempt wrote it nor at its final URL.
    """
    unmark(output)
    wanted = {paths.published(output, ref.path) for ref in refs}
    for folder in sorted({stage.folder for stage in STAGES if stage.in_output}):
        url = files.join(output, folder)
        for name in files.names(url) if files.exists(url) else ():
            if files.join(url, name) not in wanted:
                files.remove(files.join(url, name))

    def move(ref: FileRef) -> None:
        where = _where(output, ref, is_published=False)
        if where is None:
            raise DamagedFile(
                f"{ref.path} is missing and was not published; run `made retry` to recompute it"
            )
        if where == ref.path:
            files.move(where, paths.published(output, ref.path))

    with ThreadPoolExecutor(stored.STAT_THREADS) as pool:  # they wait for storage
        for a in range(0, len(refs), SLICE):
            list(pool.map(move, refs[a : a + SLICE]))
    for name in (*paths.SWEEP, paths.REVIEW, paths.PARTS):
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
