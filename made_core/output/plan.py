"""The plan of the output: which kept sample goes to which shard, under which key."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
