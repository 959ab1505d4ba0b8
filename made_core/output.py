"""The output: the plan of its shards, the shards themselves, the keep lists."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from made_core import embeddings, files, samples
from made_core.corpus import Corpus, Gids
from made_core.data import FileRef, Unit
from made_core.errors import ChangedInput, DamagedFile

SUMMARY = "summary.json"
SWEEP = ("sweep.html", "sweep.json")  # of `made sweep`, on these decisions
HEX_UID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Plan:
    """Kept samples in gid order, `samples_per_shard` a shard: no gaps, and no race for numbers."""

    kept: int
    samples_per_shard: int

    @property
    def shards(self) -> int:
        """How many output shards."""
        return math.ceil(self.kept / self.samples_per_shard)

    def slice(self, number: int) -> tuple[int, int]:
        """The kept ordinals [start, stop) of an output shard."""
        start = number * self.samples_per_shard
        return start, min(self.kept, start + self.samples_per_shard)

    def name(self, number: int) -> str:
        """An output shard's name, as DataComp and open_clip count them."""
        return f"{number:08d}"

    def key(self, ordinal: int) -> str:
        """A sample's key, by img2dataset's formula, 10^ceil(log10(samples per shard)) * shard + row."""
        number, row = divmod(ordinal, self.samples_per_shard)
        digits = math.ceil(math.log10(self.samples_per_shard))
        return f"{10**digits * number + row:0{8 + digits}d}"


def write_shard(
    corpus: Corpus,
    gids: Gids,
    first_ordinal: int,
    plan: Plan,
    url: str,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[FileRef, FileRef, FileRef]:
    """Puts `<url>.tar`, `.parquet` and `_stats.json` with the samples `gids`, in their order.

    Raises:
        ChangedInput: a sample is not what was embedded.
        StorageFailed, FileNotFoundError: the input is not there.
    """
    records: list[dict[str, object]] = []

    def outgoing() -> Iterator[samples.Sample]:
        for part, positions in corpus.by_part(gids):
            table = embeddings.read_table(part.table, ["uid", "content", "caption", "url", "width", "height"])
            wanted = (gids[positions] - part.start).tolist()
            metadata = table.take(wanted).to_pylist()
            with files.local(part.shard.url) as path:
                entries = samples.index(path).entries
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    for row, fact in zip(wanted, metadata, strict=True):
                        sample = _checked(descriptor, entries, row, part.shard.url, fact["content"])
                        key = plan.key(first_ordinal + len(records))
                        records.append(
                            {
                                "uid": fact["uid"], "key": key, "shard": part.shard.id,
                                "source_key": sample.key, "source_url": part.shard.url,
                                "caption": fact["caption"], "url": fact["url"],
                                "width": fact["width"], "height": fact["height"],
                            }
                        )  # fmt: skip
                        progress(len(records))
                        yield samples.Sample(key, sample.url, sample.members)
                finally:
                    os.close(descriptor)

    tar = files.put(f"{url}.tar", lambda path: samples.write(path, outgoing()))
    schema = pa.schema(
        [(n, pa.string()) for n in ("uid", "key", "shard", "source_key", "source_url", "caption", "url")]
        + [("width", pa.int32()), ("height", pa.int32())]
    )
    listing = pa.Table.from_pylist(records, schema)
    parquet = files.put(f"{url}.parquet", lambda path: pq.write_table(listing, path))
    n = len(records)
    stats = {
        "count": n, "successes": n, "failed_to_download": 0, "failed_to_resize": 0,
        "status_dict": {"success": n},
    }  # fmt: skip
    return tar, parquet, files.put_bytes(f"{url}_stats.json", json.dumps(stats, indent=4).encode())


def _checked(
    descriptor: int, entries: Sequence[samples.Entry], row: int, url: str, content: bytes
) -> samples.Sample:
    if row >= len(entries):
        raise ChangedInput(f"{url} holds {len(entries)} samples, sample {row} was embedded")
    sample = samples.load(descriptor, entries[row], url)
    if sample.content != content:
        raise ChangedInput(f"{url}: sample {sample.key} (row {row}) has other bytes than embedded")
    return sample


def keep_array(uids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.void]] | None:
    """DataComp's subset file: sorted pairs of 64-bit halves ("u8,u8"); None where a uid is not
    128-bit hex."""
    if not all(HEX_UID.fullmatch(u) for u in uids):
        return None
    halves = [(int(u[:16], 16), int(u[16:], 16)) for u in uids]
    return np.sort(np.array(halves, np.dtype("u8,u8")))


def write_keep_npy(path: Path, uids: Sequence[str]) -> None:
    """Writes `keep_array(uids)` to a local file."""
    array = keep_array(uids)
    assert array is not None
    with open(path, "wb") as file:
        np.save(file, array)


def part_url(output: str, scope: str, folder: str, name: str, unit: Unit) -> str:
    """Where an attempt puts a file of the output before it is published: no attempt meets another.

    `<output>/.parts/<scope>/<attempt>/<folder>/<name>`; `published` is its inverse.
    """
    return files.join(output, ".parts", scope, f"{unit.attempt}-{unit.token[:6]}", folder, name)


def published(output: str, part: str) -> str:
    """Where a file that an attempt wrote lies in the finished output."""
    *_, folder, name = part.rsplit("/", 2)
    return files.join(output, folder, name)


def plan_of(output: str) -> str | None:
    """The scope of the decisions that a finished output holds; None: it is not finished."""
    try:
        plan = json.loads(files.read(files.join(output, SUMMARY))).get("plan")
    except (FileNotFoundError, ValueError):
        return None
    return plan if isinstance(plan, str) else None


def stands(output: str, refs: Sequence[FileRef], is_published: bool) -> bool:
    """Whether a done unit's files are there: as its attempt put them, or published.

    A published file of the right size may be an older plan's, unless the output `is_published`
    with this one: then its content decides.
    """
    return all(_where(output, ref, is_published) is not None for ref in refs)


def unmark(output: str) -> None:
    """Says that an output is not whole, by removing its summary."""
    files.remove(files.join(output, SUMMARY))


def publish(output: str, refs: Sequence[FileRef]) -> None:
    """Moves the attempts' files to their places and removes all others; may be done again.

    The summary goes first and is put last, by the caller: where it stands, the output is whole.

    Raises:
        DamagedFile: a file is neither where its attempt put it nor in its place.
    """
    unmark(output)
    wanted = {published(output, ref.path) for ref in refs}
    for folder in ("decisions", "shards"):
        url = files.join(output, folder)
        for name in files.names(url) if files.exists(url) else ():
            if files.join(url, name) not in wanted:
                files.remove(files.join(url, name))
    for ref in refs:
        where = _where(output, ref, is_published=False)
        if where is None:
            raise DamagedFile(f"{ref.path} is gone before it was published")
        if where == ref.path:
            files.move(where, published(output, ref.path))
    for name in (*SWEEP, ".parts"):
        files.remove(files.join(output, name))


def _where(output: str, ref: FileRef, is_published: bool) -> str | None:
    if _size(ref.path) == ref.size:
        return ref.path
    target = published(output, ref.path)
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
