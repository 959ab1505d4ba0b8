"""Cluster rows: transposes the rows from shard order to cluster order.

Each batch of shards writes its rows sorted by (cluster, gid), once per probe, with the offsets of the
clusters, so the rows of a range of clusters are one slice of each batch's file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from made_core.corpus.corpus import Gids
from made_core.io import files
from made_core.io.arrays import StoredArray, put_array, read_array, readers
from made_core.stages import AssignOutput
from made_core.vectors import Rows

if TYPE_CHECKING:  # it imports torch and FAISS, which a flow does not need
    from made_core.cluster.kmeans import Clusters, Floats

HOME = np.dtype([("gid", "<i8"), ("cluster", "<i4"), ("distance", "<f8")])


def member_type(probes: int) -> np.dtype[np.void]:
    """The dtype of a row's gid and its nearest clusters, home cluster first."""
    return np.dtype([("gid", "<i8"), ("probes", "<i4", (probes,))])


def put(
    url: str, gids: Gids, rows: Rows, probes: Clusters, distance: Floats, k: int, samples: int
) -> AssignOutput:
    """Writes the cluster rows of a batch as `<url>.{rows,members,offsets,homes}.npy`.

    Args:
        gids: (n,) the batch's images, ascending.
        rows: (n, dim) float16 stored rows.
        probes: (n, p) their nearest of the k clusters, the nearest (home) first.
        distance: (n,) 1 - cosine to the centroid of the home cluster.
        samples: number of samples of the batch.

    Raises:
        StorageFailed: the store cannot be written.
    """
    n, p = probes.shape
    cluster = probes.ravel()
    source = np.repeat(np.arange(n), p)
    order = np.lexsort((gids[source], cluster))
    members = np.empty(n * p, member_type(p))
    members["gid"] = gids[source[order]]
    members["probes"] = probes[source[order]]
    offsets = np.searchsorted(cluster[order], np.arange(k + 1)).astype(np.int64)
    homes = np.empty(n, HOME)
    homes["gid"], homes["cluster"] = gids, probes[:, 0]
    homes["distance"] = distance
    return AssignOutput(
        samples=samples,
        rows=put_array(f"{url}.rows.npy", rows[source[order]]),
        members=put_array(f"{url}.members.npy", members),
        offsets=put_array(f"{url}.offsets.npy", offsets),
        homes=put_array(f"{url}.homes.npy", homes),
        images=n,
        distance=float(distance.sum()),
    )


@dataclass(frozen=True)
class Cluster:
    """One cluster's rows, gathered from all batches."""

    id: int
    rows: Rows  # (n, dim) float16, memory-mapped
    members: npt.NDArray[np.void]  # (n,) of `member_type`


@contextmanager
def gathered(batches: Sequence[AssignOutput], start: int, stop: int) -> Iterator[Iterator[Cluster]]:
    """The clusters start to stop - 1, one at a time; only one cluster's members are in memory.

    Before the first cluster is yielded, the batches' slices of these clusters are read and checked;
    slices of remote batches are copied to disk.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    with ExitStack() as stack:

        def opened(batch: AssignOutput) -> _Slice:
            offsets = StoredArray(batch.offsets).rows(start, stop + 1)
            span = int(offsets[0]), int(offsets[-1])
            rows, members = (StoredArray(ref).rows(*span) for ref in (batch.rows, batch.members))
            return _Slice(rows, members, offsets - offsets[0])

        with ThreadPoolExecutor(readers(b.rows for b in batches)) as pool:
            slices = list(pool.map(opened, batches))
        folder = stack.enter_context(files.scratch())

        width = max(s.rows.shape[1] for s in slices)  # 0 in a batch without images

        def clusters() -> Iterator[Cluster]:
            for c in range(stop - start):
                cuts = [slice(int(s.offsets[c]), int(s.offsets[c + 1])) for s in slices]
                total = sum(cut.stop - cut.start for cut in cuts)
                if total == 0:
                    continue
                path = folder / f"{start + c}.rows"
                with open(path, "wb") as file:  # not through a map: there a full disk raises no exception
                    for cut, s in zip(cuts, slices, strict=True):
                        file.write(np.ascontiguousarray(s.rows[cut]).data)  # tofile ignores a full disk
                members = np.concatenate([s.members[cut] for cut, s in zip(cuts, slices, strict=True)])
                rows = np.memmap(path, np.float16, "r", shape=(total, width))
                yield Cluster(start + c, rows, members)
                del rows
                path.unlink()

        yield clusters()


@dataclass(frozen=True)
class _Slice:
    """A batch's rows of a range of clusters."""

    rows: Rows
    members: npt.NDArray[np.void]
    offsets: npt.NDArray[np.int64]  # of the clusters in `rows`, starting with 0


def homes(
    batches: Sequence[AssignOutput], canonical: Gids
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """((n,) home cluster, (n,) distance to its centroid) of every sample, those of its canonical sample.

    -1 and NaN for unreadable samples. `canonical`: (n,) gids. Raises DamagedFile.
    """
    cluster = np.full(len(canonical), -1, np.int32)
    distance = np.full(len(canonical), np.nan)
    for batch in batches:
        table = read_array(batch.homes)
        cluster[table["gid"]] = table["cluster"]
        distance[table["gid"]] = table["distance"]
    readable = canonical >= 0
    cluster[readable] = cluster[canonical[readable]]
    distance[readable] = distance[canonical[readable]]
    return cluster, distance


def sizes(batches: Sequence[AssignOutput]) -> npt.NDArray[np.int64]:
    """(k,) number of rows of each cluster, including rows at home in other clusters. Raises DamagedFile."""
    total: npt.NDArray[np.int64] | None = None
    for batch in batches:
        some = np.diff(read_array(batch.offsets))
        total = some if total is None else total + some
    return np.zeros(0, np.int64) if total is None else total
