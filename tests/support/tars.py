"""Samples of a tar, as tests compare them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from made_core.ingest import tar as samples
from made_core.ingest.tar import Sample

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def held(tar: Path) -> list[Sample]:
    """All samples of a tar."""
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        return [samples.load(descriptor, e, str(tar)) for e in samples.index(tar).entries]
    finally:
        os.close(descriptor)


def as_pairs(found: list[Sample]) -> list[tuple[str, dict[str, bytes]]]:
    """The compared fields of samples."""
    return [(s.key, s.members) for s in found]
