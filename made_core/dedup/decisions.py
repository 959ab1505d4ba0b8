"""The decisions on a corpus, and their files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.corpus import identity
from made_core.corpus.corpus import Gids
from made_core.corpus.identity import Identities
from made_core.corpus.sorting import Uids
from made_core.io.arrays import put_array, read_array
from made_core.reasons import DUPLICATES, KEPT, PLACEHOLDER, Codes
from made_core.stages import ResolveOutput

NO_SAMPLE = -1  # in place of a gid


@dataclass(frozen=True)
class Decisions:
    """Arrays over all samples, by gid."""

    reason: Codes  # why each sample is dropped, or KEPT
    representative: Gids  # gid of the kept sample that represents it; NO_SAMPLE for filtered samples
    # Of each removed sample and its representative: 1 for equal images. NaN: kept, filtered, or not known,
    # where the two are no near pair.
    similarity: npt.NDArray[np.float64]


def put(
    url: str,
    decided: Decisions,
    identities: Identities,
    cluster: npt.NDArray[np.int32],
    placeholder: npt.NDArray[np.bool_],
    begin: int = 0,
) -> ResolveOutput:
    """Writes decisions as `<url>.*.npy`.

    Args:
        cluster: (n,) home cluster of each sample. placeholder: (n,) whether it shows a placeholder.
        begin: gid of the first sample of this run; those before are of the run that it extends.

    Raises:
        StorageFailed: the store cannot be written.
    """
    reason, representative = decided.reason[begin:], decided.representative[begin:]
    duplicate = np.isin(reason, [r.code for r in DUPLICATES])
    # All samples of a placeholder can be dropped, so none represents them.
    duplicate &= (reason != PLACEHOLDER.code) | (representative != NO_SAMPLE)
    stands = representative[duplicate]
    broken = (stands == NO_SAMPLE) | (decided.reason[stands] != KEPT)
    kept = np.flatnonzero(reason == KEPT) + begin
    return ResolveOutput(
        samples=len(reason),
        reason=put_array(f"{url}.reason.npy", decided.reason),
        representative=put_array(f"{url}.representative.npy", decided.representative),
        represented_by=put_array(f"{url}.represented_by.npy", _represented_by(decided, identities.uids)),
        similarity=put_array(f"{url}.similarity.npy", decided.similarity),
        cluster=put_array(f"{url}.cluster.npy", cluster),
        kept=put_array(f"{url}.kept.npy", kept),
        kept_samples=len(kept),
        kept_earlier=int((decided.reason[:begin] == KEPT).sum()),
        represented_earlier=int(((representative >= 0) & (representative < begin)).sum()),
        placeholder_images=len(np.unique(identities.canonical[begin:][placeholder[begin:]])),
        placeholder_samples=int(placeholder[begin:].sum()),
        broken=int(broken.sum()),
        hex_uids=identity.all_hex(identities.uids[kept]),
    )


def read(output: ResolveOutput) -> Decisions:
    """The stored decisions, memory-mapped. Raises DamagedFile."""
    return Decisions(*map(read_array, (output.reason, output.representative, output.similarity)))


def _represented_by(decided: Decisions, uids: Uids) -> Uids:
    """(n,) the uid of the kept sample that represents each removed one; empty without one."""
    result = np.zeros(len(uids), uids.dtype)
    removed = np.flatnonzero((decided.reason != KEPT) & (decided.representative != NO_SAMPLE))
    result[removed] = uids[decided.representative[removed]]
    return result
