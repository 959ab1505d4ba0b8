"""Discovery and admission: folders, globs, brace patterns and URLs -> Shards.

A tar is admitted only with a valid `_stats.json`, which img2dataset writes last. A shard's fingerprint
covers its size, stats, head and tail, not its path or times, so a moved or copied shard is the same
shard. (Size and stats alone are not enough: tars are padded to 10 KiB, and not all stats have times.)
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count

import braceexpand

from made_core.errors import PathError, SourceError
from made_core.io import files
from made_core.types import Shard

LOOKS = 20  # folders in a source without tars that are looked into, for the message
READERS = 16  # threads that read stats: they mostly wait for storage
MOST_SAMPLES = 2**31 - 1  # in a shard; a tar of more would be larger than any that img2dataset writes
EDGE = 1 << 16  # bytes of the head and of the tail that enter the fingerprint


@dataclass(frozen=True)
class Discovery:
    """The shards of the sources."""

    shards: tuple[Shard, ...]  # by (name, fingerprint, url), whatever the order of the sources
    refused: tuple[str, ...]  # unfinished tars: without valid stats beside them


class BrokenStats(SourceError):
    """A stats file is not one of img2dataset."""


@dataclass(frozen=True)
class Listing:
    """The tars of the sources, found without reading any."""

    named: frozenset[str]  # tars that the user named individually
    admitted: dict[str, int]  # tar -> size in bytes
    refused: tuple[str, ...]  # unfinished tars: without stats beside them
    stats: frozenset[str]  # the stats files beside the tars


def discover(sources: Sequence[str], require_stats: bool) -> Discovery:
    """The shards of `sources`, each once.

    Raises:
        SourceError: as `expand`; or, where stats are required, those of a named tar, or of all tars, are
            invalid.
        PathError: a source cannot be used: unknown protocol, no permission.
        StorageFailed: the storage did not answer.
    """
    listing = expand(sources, require_stats)
    broken: dict[str, BrokenStats] = {}

    def read(tar: str) -> Shard | None:
        try:
            return _shard(tar, listing.admitted[tar], stats_of(tar) in listing.stats, require_stats)
        except BrokenStats as error:
            if tar in listing.named:
                raise
            broken[tar] = error
            return None

    with ThreadPoolExecutor(READERS) as pool:
        shards = [shard for shard in pool.map(read, listing.admitted) if shard is not None]
    if broken and not shards:
        raise broken[min(broken)]
    return Discovery(_with_ids(shards), tuple(sorted((*listing.refused, *broken))))


def expand(sources: Sequence[str], require_stats: bool) -> Listing:
    """The tars of `sources`; only lists folders.

    Raises:
        SourceError: a source does not exist, has no tar, or names a tar without stats; or no tar is
            admitted.
        PathError: a source cannot be used: unknown protocol, no permission.
        StorageFailed: the storage did not answer.
    """
    folder = cache(_folder)  # lists each folder once
    found: set[str] = set()
    named: set[str] = set()  # tars that the user named individually
    for source in sources:
        for url in _braces(files.absolute(source)):
            if url.endswith(".tar") and not _is_glob(url):
                named.add(url)
            else:
                found.update(_tars(url, folder))
    sizes: dict[str, int] = {}
    stats: set[str] = set()
    for tar in sorted(found | named):
        inside = folder(posixpath.dirname(tar))
        if tar not in inside:
            raise SourceError(f"no such tar: {tar}")
        sizes[tar] = inside[tar]
        if stats_of(tar) in inside:
            stats.add(stats_of(tar))
    refused = [t for t in sizes if stats_of(t) not in stats] if require_stats else []
    if wrong := [t for t in refused if t in named]:
        raise SourceError(
            f"{wrong[0]} has no {posixpath.basename(stats_of(wrong[0]))} beside it, so it is unfinished or "
            "from another tool; set admission.require_stats: false to admit it"
        )
    admitted = {t: size for t, size in sizes.items() if not require_stats or stats_of(t) in stats}
    if not admitted:
        raise SourceError(
            f"no shard in {', '.join(sources)}: {len(refused)} tars, none with its _stats.json; "
            "set admission.require_stats: false to admit shards from other tools"
        )
    return Listing(frozenset(named), admitted, tuple(refused), frozenset(stats))


def _braces(source: str) -> list[str]:
    """`a{0..2}b` -> a0b, a1b, a2b; a source that exists under this very name is not expanded."""
    return [source] if "{" not in source or files.exists(source) else expand_braces(source)


def expand_braces(source: str) -> list[str]:
    """`a{0..2}b` -> a0b, a1b, a2b. Raises SourceError if the pattern is not valid."""
    try:
        return list(braceexpand.braceexpand(source))
    except ValueError as error:
        raise SourceError(f"{source}: {error}") from None


def _is_glob(url: str) -> bool:
    """Whether a source is a pattern; a source that exists under this very name is none."""
    return any(c in url for c in "*?[") and not files.exists(url)


def _tars(url: str, folder: Callable[[str], dict[str, int]]) -> list[str]:
    """The tars that match a glob, or are in a folder."""
    tars = [u for u in (files.glob(url) if _is_glob(url) else folder(url)) if u.endswith(".tar")]
    if not tars:
        raise SourceError(f"no shard (*.tar) in {url}{'' if _is_glob(url) else _instead(url)}")
    return tars


def _instead(url: str) -> str:
    """What a folder without tars has that was perhaps meant: a folder with tars, or none of our shards."""
    for name in files.folders(url)[:LOOKS]:
        with suppress(PathError):  # one that this user cannot read
            if any(inside.endswith(".tar") for inside in files.names(files.join(url, name))):
                return f"; {files.join(url, name)} has some"
    return "; made reads the WebDataset shards that img2dataset writes with output_format=webdataset"


def _folder(url: str) -> dict[str, int]:
    """The files in a folder: URL -> size in bytes."""
    try:
        inside = files.names(url)
    except FileNotFoundError:
        raise SourceError(f"no such folder: {url}") from None
    return {files.join(url, name): size for name, size in inside.items()}


def stats_of(tar: str) -> str:
    """The URL of a tar's stats file."""
    return f"{tar.removesuffix('.tar')}_stats.json"


def _shard(url: str, size: int, has_stats: bool, require_stats: bool) -> Shard:
    """The shard of a tar, without an id. Raises BrokenStats if stats are required and those are invalid."""
    expected, stats = None, b""
    if has_stats:
        stats = files.read(stats_of(url))
        try:
            expected = int(json.loads(stats)["successes"])
            if not 0 <= expected <= MOST_SAMPLES:
                raise ValueError(f"successes is {expected}, allowed: 0 to {MOST_SAMPLES}")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if require_stats:
                raise BrokenStats(
                    f"{stats_of(url)} is not a stats file of img2dataset: {error!r}; restore it, or set "
                    "admission.require_stats: false"
                ) from None
            expected = None
    if size <= 2 * EDGE:
        edges = files.read(url)
    else:
        edges = files.read(url, 0, EDGE) + files.read(url, size - EDGE, size)
    fingerprint = hashlib.blake2b(b"%d\n" % size + stats + edges, digest_size=16).hexdigest()
    return Shard("", url, fingerprint, size, expected)


def _with_ids(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """Adds ids: the name; with a short fingerprint if names collide, and a number if these collide too."""
    stem = {s.url: posixpath.basename(s.url).removesuffix(".tar") for s in shards}
    ordered = sorted(shards, key=lambda s: (stem[s.url], s.fingerprint, s.url))
    of_name = Counter(stem.values())
    given: set[str] = set()
    result = []
    for shard in ordered:
        base = stem[shard.url]
        if of_name[base] > 1:
            base = f"{base}-{shard.fingerprint[:8]}"
        name = next(n for n in chain([base], (f"{base}-{i}" for i in count(2))) if n not in given)
        given.add(name)
        result.append(replace(shard, id=name))
    return tuple(result)
