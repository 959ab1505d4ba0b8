"""Discovery and admission: folders, globs, brace patterns and URLs -> Shards.

A tar is admitted only with its `_stats.json`, which img2dataset writes last. A shard's fingerprint
is of its size and stats, never of its path or time, so a moved or copied shard is the same one.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import braceexpand

from made_core import files
from made_core.data import Shard
from made_core.errors import SourceError

READERS = 16  # threads that read stats: the wait is for the file system
EDGE = 1 << 16  # bytes of head and of tail in the fingerprint of a tar without stats


@dataclass(frozen=True)
class Discovery:
    """What the sources hold."""

    shards: tuple[Shard, ...]  # in the order of (name, fingerprint, url), whatever the sources'
    refused: tuple[str, ...]  # tars that are not finished: no stats beside them


@dataclass(frozen=True)
class Listing:
    """The tars of the sources, by name alone."""

    admitted: dict[str, int]  # tar -> bytes
    refused: tuple[str, ...]  # tars that are not finished: no stats beside them
    stats: frozenset[str]  # the stats files there are


def discover(sources: Sequence[str], require_stats: bool) -> Discovery:
    """The shards of `sources`, each once.

    Raises:
        SourceError: as `expand` does, or stats that are no JSON.
        StorageFailed: the storage did not answer.
    """
    found = expand(sources, require_stats)
    with ThreadPoolExecutor(READERS) as pool:
        shards = pool.map(
            lambda tar: _shard(tar[0], tar[1], _stats_of(tar[0]) in found.stats), found.admitted.items()
        )
        return Discovery(_with_ids(list(shards)), found.refused)


def expand(sources: Sequence[str], require_stats: bool) -> Listing:
    """The tars of `sources`, by listing folders only.

    Raises:
        SourceError: a source that does not exist, holds no tar, or names a tar without stats;
            no shard at all.
        StorageFailed: the storage did not answer.
    """
    found: dict[str, int] = {}
    stats: set[str] = set()
    named: set[str] = set()  # tars that the user named one by one
    for source in sources:
        tars, beside, is_named = _expand(source)
        found.update(tars)
        stats |= beside
        if is_named:
            named |= set(tars)
    refused = sorted(t for t in found if _stats_of(t) not in stats) if require_stats else []
    if wrong := [t for t in refused if t in named]:
        raise SourceError(
            f"{wrong[0]} has no {posixpath.basename(_stats_of(wrong[0]))} beside it: "
            "unfinished, or of another maker (admission.require_stats: false)"
        )
    admitted = {t: size for t, size in found.items() if t not in set(refused)}
    if not admitted:
        raise SourceError(
            f"no shard in {', '.join(sources)}: {len(refused)} tars, none with its _stats.json "
            "(admission.require_stats: false admits shards of other makers)"
        )
    return Listing(admitted, tuple(refused), frozenset(stats))


def _expand(source: str) -> tuple[dict[str, int], set[str], bool]:
    """(tar -> bytes, the stats files there, whether the tars were named one by one)."""
    source = files.absolute(source)
    if "{" in source:
        urls = list(braceexpand.braceexpand(source))
    elif any(c in source for c in "*?["):
        fs, pattern = files.filesystem(source)
        urls = [u if files.is_local(source) else fs.unstrip_protocol(u) for u in fs.glob(pattern)]
        urls = [u for u in urls if u.endswith(".tar")]
    elif source.endswith(".tar"):
        urls = [source]
    else:
        return _folder(source)
    if not urls:
        raise SourceError(f"no tar matches {source}")
    tars: dict[str, int] = {}
    stats: set[str] = set()
    for folder in sorted({posixpath.dirname(u) for u in urls}):
        inside, beside, _ = _folder(folder)
        tars.update({u: inside[u] for u in urls if u in inside})
        stats |= beside
    if missing := [u for u in urls if u not in tars]:
        raise SourceError(f"{missing[0]} does not exist ({len(missing)} missing of {source})")
    return tars, stats, not any(c in source for c in "*?[")


def _folder(url: str) -> tuple[dict[str, int], set[str], bool]:
    try:
        inside = files.names(url)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError(f"no such folder: {url}") from None
    tars = {files.join(url, n): size for n, size in inside.items() if n.endswith(".tar")}
    if not tars:
        raise SourceError(f"no shard (*.tar) in {url}")
    return tars, {files.join(url, n) for n in inside if n.endswith("_stats.json")}, False


def _stats_of(tar: str) -> str:
    return f"{tar.removesuffix('.tar')}_stats.json"


def _shard(url: str, size: int, has_stats: bool) -> Shard:
    expected = None
    if has_stats:
        content = files.read(_stats_of(url))
        try:
            expected = int(json.loads(content)["successes"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{_stats_of(url)} is no statistics of img2dataset: {error!r}"
            ) from None
    else:
        fs, path = files.filesystem(url)
        content = fs.cat_file(path, 0, EDGE) + fs.cat_file(path, max(0, size - EDGE), size)
    mark = hashlib.blake2b(b"%d\n" % size + content, digest_size=16).hexdigest()
    return Shard("", url, mark, size, expected)


def _with_ids(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """Ids from names; a short fingerprint where names collide, a number where those do too."""
    stem = {s.url: posixpath.basename(s.url).removesuffix(".tar") for s in shards}
    ordered = sorted(shards, key=lambda s: (stem[s.url], s.fingerprint, s.url))
    of_name = Counter(stem.values())
    seen: Counter[str] = Counter()
    result = []
    for shard in ordered:
        name = stem[shard.url]
        name = name if of_name[name] == 1 else f"{name}-{shard.fingerprint[:8]}"
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        result.append(Shard(name, shard.url, shard.fingerprint, shard.size, shard.expected))
    return tuple(result)
