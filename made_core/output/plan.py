"""The plan of the output: the shard and the key of each kept sample."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Assigns kept samples to shards in gid order, `samples_per_shard` each, without gaps.

    Shards and keys depend on the plan only, so workers need no coordination.
    """

    kept: int
    samples_per_shard: int

    @property
    def shards(self) -> int:
        """The number of output shards."""
        return math.ceil(self.kept / self.samples_per_shard)

    def slice(self, number: int) -> tuple[int, int]:
        """The ordinals [start, stop) of an output shard's samples among the kept samples."""
        start = number * self.samples_per_shard
        return start, min(self.kept, start + self.samples_per_shard)

    def name(self, number: int) -> str:
        """An output shard's name, numbered as DataComp and open_clip expect."""
        return f"{number:08d}"

    def key(self, ordinal: int) -> str:
        """A sample's key by img2dataset's formula: 10^ceil(log10(samples per shard)) * shard + row."""
        number, row = divmod(ordinal, self.samples_per_shard)
        digits = math.ceil(math.log10(self.samples_per_shard))
        return f"{10**digits * number + row:0{8 + digits}d}"
