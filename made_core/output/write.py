"""Writes output shards: the kept samples, copied byte for byte."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from made_core.corpus import tables
from made_core.corpus.corpus import Corpus, Gids
from made_core.errors import ChangedInput
from made_core.ingest import tar
from made_core.io import files
from made_core.output.plan import Plan
from made_core.stages import WriteOutput

REMEDY = "restore it, or name another store, into which it is embedded anew"
LISTING = pa.schema(
    [
        ("uid", pa.string()),
        ("key", pa.string()),  # in the output shard
        ("shard", pa.string()),  # the input shard's id
        ("source_key", pa.string()),  # in the input shard
        ("source_url", pa.string()),  # of the input shard
        ("caption", pa.string()),
        ("url", pa.string()),  # from which img2dataset downloaded the image
        ("width", pa.int32()),  # pixels
        ("height", pa.int32()),
        ("clip_score", pa.float64()),  # cosine of image and caption, or the json's score; null without one
    ]
)


def write_shard(
    corpus: Corpus,
    gids: Gids,
    first_ordinal: int,
    plan: Plan,
    url: str,
    progress: Callable[[int], None] = lambda _: None,
) -> WriteOutput:
    """Writes `<url>.tar`, `<url>.parquet` and `<url>_stats.json` with the samples `gids`, in their order.

    Args:
        first_ordinal: of the first sample among the kept ones.
        progress: called with the number of samples done so far.

    Raises:
        ChangedInput: a sample has changed since it was embedded.
        StorageFailed, FileNotFoundError: the input cannot be read.
    """
    records: list[dict[str, object]] = []

    def outgoing() -> Iterator[tar.Sample]:
        for part, positions in corpus.by_part(gids):
            columns = ["uid", "content_digest", "caption", "url", "width", "height", "clip_score"]
            table = tables.read(part, columns)
            wanted = (gids[positions] - part.start).tolist()
            facts = table.take(wanted).to_pylist()
            with files.local(part.shard.url) as path:
                entries = tar.index(path).entries
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    for row, fact in zip(wanted, facts, strict=True):
                        sample = _checked(descriptor, entries, row, part.shard.url, fact["content_digest"])
                        key = plan.key(first_ordinal + len(records))
                        records.append(
                            {
                                "uid": fact["uid"], "key": key, "shard": part.shard.id,
                                "source_key": sample.key, "source_url": part.shard.url,
                                "caption": fact["caption"], "url": fact["url"],
                                "width": fact["width"], "height": fact["height"],
                                "clip_score": fact["clip_score"],
                            }
                        )  # fmt: skip
                        progress(len(records))
                        yield tar.Sample(key, sample.url, sample.members)
                finally:
                    os.close(descriptor)

    shard = files.put(f"{url}.tar", lambda path: tar.write(path, outgoing()))
    listing = pa.Table.from_pylist(records, LISTING)
    parquet = files.put(f"{url}.parquet", lambda path: pq.write_table(listing, path))
    n = len(records)
    stats = {
        "count": n, "successes": n, "failed_to_download": 0, "failed_to_resize": 0,
        "status_dict": {"success": n},
    }  # fmt: skip
    stats_file = files.put_bytes(f"{url}_stats.json", json.dumps(stats, indent=4).encode())
    return WriteOutput(samples=n, tar=shard, listing=parquet, stats=stats_file)


def _checked(descriptor: int, entries: Sequence[tar.Entry], row: int, url: str, content: bytes) -> tar.Sample:
    if row >= len(entries):
        raise ChangedInput(f"{url} has {len(entries)} samples, but sample {row} was embedded; {REMEDY}")
    sample = tar.load(descriptor, entries[row], url)
    if sample.content_digest != content:
        raise ChangedInput(f"{url}: the bytes of sample {sample.key} (row {row}) have changed; {REMEDY}")
    return sample
