"""A case by its seed and number: a damaged tar and the outcomes that are allowed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from tests.fuzz import images, tars
from tests.fuzz.members import MEMBERS
from tests.fuzz.tars import BLOCKS, keys
from tests.support.factories import members, tar_bytes

SAMPLES = 5  # of a tar
BASES = 12  # tars that are damaged
FAMILIES = ("blocks", "members", "images")
MAX_PIXELS = (10_000, 1_000_000)  # reading.max_pixels; no undamaged image has more

Files = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Case:
    """A tar and its allowed outcomes."""

    family: str  # of FAMILIES
    damage: str  # name of the damage
    tar: bytes
    max_pixels: int
    base: int  # number of the undamaged tar
    readable: bool | None  # None: it may be refused as a whole
    intact: tuple[str, ...]  # keys of samples that must be as in the undamaged tar

    @property
    def name(self) -> str:
        """The name of the case's row in the table."""
        return f"{self.family}: {self.damage.replace('_', ' ')}"


@cache
def base(number: int) -> Files:
    """(name, content) of an undamaged tar's members: images of all kinds, jpg, json and txt."""
    kinds = list(images.KINDS)
    files = []
    for n in range(SAMPLES):
        seed = number * SAMPLES + n
        uid = {"uid": f"{seed:032x}"} if n % 2 else {}
        data = images.whole(kinds[seed % len(kinds)], seed % 8)
        parts = members(seed, f"caption {seed}", **uid) | {"jpg": data}
        files += [(f"{n:09d}.{suffix}", content) for suffix, content in parts.items()]
    return tuple(files)


def make(seed: int, number: int) -> Case:
    """Case `number` of a seed; equal arguments give equal cases."""
    dice = random.Random(f"{seed}/{number}")
    at, family, max_pixels = dice.randrange(BASES), dice.choice(FAMILIES), dice.choice(MAX_PIXELS)
    files = base(at)
    if family == "images":
        damage = dice.choice(images.DAMAGES)
        kind = dice.choice(list(images.KINDS))
        hurt = damage(dice, images.whole(kind, dice.randrange(8)))
        key = f"{dice.randrange(SAMPLES):09d}"
        name = f"{key}.{dice.choice(images.SUFFIXES)}"
        changed = [(name, hurt) if old == f"{key}.jpg" else (old, data) for old, data in files]
        return Case(family, damage.__name__, tar_bytes(changed), max_pixels, at, True, keys(files, key))
    hurting: tars.Damage = dice.choice(MEMBERS if family == "members" else BLOCKS)
    tar, readable, intact = hurting(dice, files)
    return Case(family, hurting.__name__, tar, max_pixels, at, readable, intact)
