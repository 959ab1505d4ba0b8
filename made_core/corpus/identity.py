"""The identities of a corpus: the uid of each sample, and the canonical sample of equal images.

Samples with equal image bytes are one image. The readable one with the lowest uid (then gid) is the
canonical sample; its stored row is the vector of all. Unreadable samples have no canonical sample. In a
corpus that extends another, canonical samples of the earlier corpus stay canonical.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from made_core.corpus.corpus import Corpus, Gids, Part
from made_core.corpus.sorting import Uids, ordered
from made_core.embed import metadata
from made_core.io.arrays import READERS, put_array, read_array
from made_core.stages import IdentifyOutput

SLICE = 1 << 18  # uids that are Python objects at a time
HEX_UID = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True)
class Identities:
    """Arrays over all samples, by gid."""

    uids: Uids  # UTF-8
    canonical: Gids  # gid of the canonical sample; -1: unreadable

    @property
    def images(self) -> Gids:
        """The gids of the canonical samples, ascending: their rows are clustered and compared."""
        return np.flatnonzero(self.canonical == np.arange(len(self.canonical)))


def build(corpus: Corpus, earlier: Gids | None = None) -> Identities:
    """The identities of a corpus, from the metadata only. `earlier`: see `canonicals`. Raises DamagedFile."""
    with ThreadPoolExecutor(READERS) as pool:
        columns = list(pool.map(_columns, corpus.parts))
    if not columns:
        return Identities(np.zeros(0, "S1"), np.zeros(0, np.int64))
    uids, digests, readable = (np.concatenate(column) for column in zip(*columns, strict=True))
    del columns
    return Identities(uids, canonicals(uids, digests.view("<u8").reshape(-1, 2), readable, earlier))


def _columns(part: Part) -> tuple[Uids, npt.NDArray[np.void], npt.NDArray[np.bool_]]:
    """A part's uids, digests of images (zeros without one), and whether each image is readable."""
    table = metadata.read_table(part.metadata, ["uid", "image_digest", "error"])
    digests = pc.fill_null(table["image_digest"], pa.scalar(bytes(16), pa.binary(16))).combine_chunks()
    # V16, later two integers: numpy's byte strings would drop trailing zero bytes.
    values = np.frombuffer(digests.buffers()[1], "V16", len(digests), 16 * digests.offset)
    readable: npt.NDArray[np.bool_] = pc.is_null(table["error"]).to_numpy(zero_copy_only=False)
    return _bytes(table["uid"].combine_chunks()), values, readable


def _bytes(strings: pa.StringArray) -> Uids:
    """(n,) the UTF-8 of strings, without a Python object for each where all are of one length."""
    ends = np.frombuffer(strings.buffers()[1], np.int32, len(strings) + 1, 4 * strings.offset)
    lengths = np.diff(ends)
    if len(lengths) and (width := int(lengths[0])) and (lengths == width).all():
        return np.frombuffer(strings.buffers()[2], f"S{width}", len(strings), int(ends[0]))
    return np.array([s.encode() for s in strings.to_pylist()], np.bytes_)


def canonicals(
    uids: Uids,
    digests: npt.NDArray[np.uint64],
    readable: npt.NDArray[np.bool_],
    earlier: Gids | None = None,
) -> Gids:
    """(n,) gid of each sample's canonical sample; -1 for an unreadable sample.

    Args:
        uids: (n,) byte strings.
        digests: (n, 2) halves of the image digests.
        readable: (n,) flags.
        earlier: (m,) result for the first m samples, those of the corpus that this one extends.
    """
    n = len(uids)
    canonical = np.full(n, -1, np.int64)
    gids = np.flatnonzero(readable)
    if not len(gids):
        return canonical
    later = np.ones(n, bool)
    if earlier is not None:
        later[: len(earlier)] = earlier != np.arange(len(earlier))

    def more(some: Gids) -> Sequence[npt.NDArray[Any]]:
        return digests[gids[some], 1], later[gids[some]], uids[gids[some]]

    in_order = gids[ordered(digests[gids, 0], more)]
    same = (digests[in_order[1:]] == digests[in_order[:-1]]).all(axis=1)
    starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
    sizes = np.diff(np.append(starts, len(in_order)))
    canonical[in_order] = np.repeat(in_order[starts], sizes)
    return canonical


def all_hex(uids: Uids) -> bool:
    """Whether all uids are 128-bit numbers in hex, as DataComp's keep lists require."""
    slices = (uids[a : a + SLICE].tolist() for a in range(0, len(uids), SLICE))
    return all(HEX_UID.fullmatch(uid) for some in slices for uid in some)


def hashes(uids: Uids, seed: int) -> npt.NDArray[np.uint64]:
    """(n,) 64-bit hashes of the uids with a seed (keyed blake2b): a reproducible random order."""
    key = seed.to_bytes(8, "little")
    result = np.empty(len(uids), np.uint64)
    for a in range(0, len(uids), SLICE):
        some = uids[a : a + SLICE].tolist()
        data = b"".join(hashlib.blake2b(u, digest_size=8, key=key).digest() for u in some)
        result[a : a + SLICE] = np.frombuffer(data, "<u8")
    return result


def shuffled(identities: Identities, seed: int) -> Gids:
    """gids of all images in the order of hashes of their uids: random, whatever the order of the shards."""
    images = identities.images
    hashed = hashes(identities.uids[images], seed)
    return images[ordered(hashed, lambda some: (identities.uids[images[some]],))]


def drawn(identities: Identities, size: int, seed: int) -> Gids:
    """gids of the first `size` images, or all, in that order."""
    return shuffled(identities, seed)[:size]


def put(url: str, identities: Identities) -> IdentifyOutput:
    """Writes `<url>.uids.npy` and `<url>.canonical.npy`. Raises StorageFailed."""
    return IdentifyOutput(
        samples=len(identities.uids),
        uids=put_array(f"{url}.uids.npy", identities.uids),
        canonical=put_array(f"{url}.canonical.npy", identities.canonical),
        images=len(identities.images),
        readable=int((identities.canonical >= 0).sum()),
    )


def read(output: IdentifyOutput) -> Identities:
    """The identities that `put` wrote, memory-mapped. Raises DamagedFile."""
    return Identities(read_array(output.uids), read_array(output.canonical))
