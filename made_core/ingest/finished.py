"""Whether img2dataset has finished a folder.

img2dataset leaves no mark at the end of a job and exits with 0 even if shards failed. While it runs, `_tmp`
holds `N.feather` for each shard that is not done. A shard's `_stats.json` is written last, and every job
numbers its shards from 0.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from made_core.errors import SourceError
from made_core.io import files

TMP = "_tmp"
TAIL = 1024  # zero bytes that end a tar
DIGITS = 5  # of a shard's number in img2dataset's default
SHOWN = 10  # shards in an error
LISTED = 10_000  # missing shards that are listed: a stray 99999999.tar makes any number
READERS = 16  # threads that read tails: they mostly wait for storage


@dataclass(frozen=True)
class Unfinished:
    """What is missing in a folder that img2dataset has not finished."""

    folder: str
    running: bool  # `_tmp` is there: img2dataset runs, or was killed
    shards: dict[str, str]  # name -> what is wrong with it, in the order of the names

    def __str__(self) -> str:
        """One sentence: the folder, its unfinished shards, and what to do."""
        named = [f"{name} ({fault})" for name, fault in list(self.shards.items())[:SHOWN]]
        if more := len(self.shards) - len(named):
            named.append(f"and {more:,} more")
        parts = ["_tmp is there, so img2dataset runs or was killed"] if self.running else []
        parts += [f"unfinished shards: {', '.join(named)}"] if named else []
        return (
            f"{self.folder} is not finished: {'; '.join(parts)}; wait for img2dataset, or run it again "
            "with the same arguments, which downloads only what is missing"
        )


def check(sources: Sequence[str], require_stats: bool) -> None:
    """Checks that the folders among `sources` are finished; other sources name their tars, and are skipped.

    Args:
        sources: absolute paths or URLs.
        require_stats: false if the shards are from another tool: only `_tmp` is looked for.

    Raises:
        SourceError: a folder is not finished; names its unfinished shards.
        PathError: a folder cannot be read.
        StorageFailed: the storage did not answer.
    """
    for source in sources:
        if (found := unfinished(source, require_stats)) is not None:
            raise SourceError(str(found))


def unfinished(folder: str, require_stats: bool = True, whole: bool = True) -> Unfinished | None:
    """What is missing in `folder`; None if it is finished, or not a folder.

    Args:
        folder: a source, as an absolute path or URL.
        require_stats: false if the shards are from another tool: only `_tmp` is looked for.
        whole: whether it has to be all of a job, numbered from 0, with tars that are not cut off: the end of
            each is read. False: it may have the later shards of a job only.

    Raises:
        PathError: the folder cannot be read.
        StorageFailed: the storage did not answer.
    """
    if folder.endswith(".tar") or not files.exists(folder):
        return None
    try:
        inside = files.names(folder)
    except FileNotFoundError:
        return None
    pending = _pending(folder)
    faults = _faults(folder, inside, pending or (), whole) if require_stats else {}
    # On object stores img2dataset leaves `_tmp` behind.
    running = pending is not None and (files.is_local(folder) or bool(faults))
    if not running and not faults:
        return None
    return Unfinished(folder, running, dict(sorted(faults.items())))


def _pending(folder: str) -> list[str] | None:
    """The stems of the feather files in `_tmp`, without leading zeros; None if there is no `_tmp`."""
    tmp = files.join(folder, TMP)
    if not files.exists(tmp):
        return None
    with suppress(FileNotFoundError):
        return [n.removesuffix(".feather") for n in files.names(tmp) if n.endswith(".feather")]
    return []


def _faults(folder: str, inside: dict[str, int], pending: Iterable[str], whole: bool) -> dict[str, str]:
    """The unfinished shards of a folder: name -> what is wrong."""
    tars = {name.removesuffix(".tar") for name in inside if name.endswith(".tar")}
    stats = {name.removesuffix("_stats.json") for name in inside if name.endswith("_stats.json")}
    faults = {name: "no _stats.json" for name in tars - stats} | {name: "no tar" for name in stats - tars}
    known = tars | stats
    numbered = {int(name) for name in known if name.isdecimal() and len(name) < 10}
    waiting = {int(name) for name in pending if name.isdecimal() and len(name) < 10}
    if len(numbered) == len(known):  # as img2dataset names them
        width = max((len(name) for name in known), default=DIGITS)
        every = numbered | waiting
        first = 0 if whole else min(every, default=0)
        holes = (n for n in range(first, max(every, default=-1) + 1) if n not in numbered)
        faults.update({f"{number:0{width}d}": "missing" for number in islice(holes, LISTED)})
    finished = sorted(known - faults.keys()) if whole else []
    with ThreadPoolExecutor(READERS) as pool:
        ends = pool.map(
            lambda name: _has_end(posixpath.join(folder, f"{name}.tar"), inside[f"{name}.tar"]), finished
        )
        faults.update(
            {name: "the tar is cut off" for name, good in zip(finished, ends, strict=True) if not good}
        )
    return faults


def _has_end(tar: str, size: int) -> bool:
    """Whether a tar ends with two zero blocks."""
    return size >= TAIL and not any(files.read(tar, size - TAIL, size))
