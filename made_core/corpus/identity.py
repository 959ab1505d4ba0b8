"""The identities of a corpus: the uid of each sample, and the canonical sample of equal images.

Samples with equal image bytes are one image. The readable one with the lowest uid (then gid) is the
canonical sample; its stored row is the vector of all. Unreadable samples have no canonical sample. In a
corpus that extends another, canonical samples of the earlier corpus stay canonical.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from made_core.corpus.corpus import Corpus, Gids
from made_core.embed import metadata
from made_core.io.arrays import put_array, read_array
from made_core.stages import IdentifyOutput

Uids = npt.NDArray[np.bytes_]
SLICE = 1 << 18  # uids that are Python objects at a time


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
    uids: list[Uids] = []
    digests: list[npt.NDArray[np.bytes_]] = []
    readable: list[npt.NDArray[np.bool_]] = []
    for part in corpus.parts:
        table = metadata.read_table(part.metadata, ["uid", "image_digest", "error"])
        uids.append(np.array([u.encode() for u in table["uid"].to_pylist()], np.bytes_))
        # V16, later two integers: numpy's byte strings would drop trailing zero bytes.
        raw = b"".join(d or bytes(16) for d in table["image_digest"].to_pylist())
        digests.append(np.frombuffer(raw, "V16"))
        readable.append(pc.is_null(table["error"]).to_numpy(zero_copy_only=False))
    all_uids = np.concatenate(uids) if uids else np.zeros(0, "S1")
    all_readable = np.concatenate(readable) if readable else np.zeros(0, bool)
    halves = np.concatenate(digests).view("<u8").reshape(-1, 2) if uids else np.zeros((0, 2), "<u8")
    return Identities(all_uids, canonicals(all_uids, halves, all_readable, earlier))


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
    order = np.lexsort((gids, uids[gids], later[gids], digests[gids, 1], digests[gids, 0]))
    ordered = gids[order]
    same = (digests[ordered[1:]] == digests[ordered[:-1]]).all(axis=1)
    starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
    sizes = np.diff(np.append(starts, len(ordered)))
    canonical[ordered] = np.repeat(ordered[starts], sizes)
    return canonical


def hashes(uids: Uids, seed: int) -> npt.NDArray[np.uint64]:
    """(n,) 64-bit hashes of the uids with a seed (keyed blake2b): a reproducible random order."""
    key = seed.to_bytes(8, "little")
    result = np.empty(len(uids), np.uint64)
    for a in range(0, len(uids), SLICE):
        some = uids[a : a + SLICE].tolist()
        data = b"".join(hashlib.blake2b(u, digest_size=8, key=key).digest() for u in some)
        result[a : a + SLICE] = np.frombuffer(data, "<u8")
    return result


def training_sample(identities: Identities, size: int, seed: int) -> Gids:
    """gids of the `size` images with the lowest hashes of their uids, in that order.

    The sample does not depend on the order of the shards.
    """
    images = identities.images
    order = np.lexsort((images, identities.uids[images], hashes(identities.uids[images], seed)))
    return images[order[:size]]


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
