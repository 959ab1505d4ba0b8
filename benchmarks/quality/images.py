"""The labelled images of a folder: img2dataset's shards and `groups.tsv` (uid, group)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from made_core.errors import BadImage
from made_core.ingest.decode import decode

# One photograph under several names in groups.tsv.
SAME = {
    "imagededup:ukbench00120": "ukbench:30",
    "pdq:dihedral": "pdq:bridge-mods",
    "pdq:misc-modes": "pdq:bridge-mods",
}
# Groups of a photograph in its eight orientations: turned by 90 or 180 degrees it is another one by choice,
# since few photographs on the web are, and their captions may say so.
TURNED = ("pdq:dihedral", "pdq:exif")
VIEWS = "ukbench:"  # groups of four views of one object: alike, not copies
IMAGE_SUFFIXES = ("jpg", "png", "webp")


@dataclass(frozen=True)
class Labelled:
    """An image and what it shows."""

    image: Image.Image  # RGB
    group: str  # images of a group show the same thing
    edit: str = ""  # how it was made from the image of its group; empty: not at all
    turned: bool = False  # whether its group has orientations of one photograph

    @property
    def half(self) -> int:
        """0 or 1: the half of the groups that it is in."""
        return hashlib.blake2b(self.group.encode(), digest_size=1).digest()[0] & 1


def read(real: Path) -> list[Labelled]:
    """The readable images of `real`/shards, by uid."""
    with open(real / "groups.tsv", newline="") as file:
        groups = {row["uid"]: row["group"] for row in csv.DictReader(file, delimiter="\t")}
    found: dict[str, Labelled] = {}
    for path in sorted((real / "shards").glob("*.tar")):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                file_object = tar.extractfile(member)
                if file_object is not None:
                    members.setdefault(key, {})[suffix] = file_object.read()
        for sample in members.values():
            uid = json.loads(sample["json"])["uid"]
            data = next((sample[s] for s in IMAGE_SUFFIXES if s in sample), b"")
            try:
                image = Image.fromarray(decode(data, 10**8))
            except BadImage:
                continue
            group = groups[uid]
            found[uid] = Labelled(image, SAME.get(group, group), turned=group in TURNED)
    return [found[uid] for uid in sorted(found)]


def originals(images: Iterable[Labelled]) -> list[Labelled]:
    """The first image of each group, large enough to be edited."""
    first: dict[str, Labelled] = {}
    for one in images:
        if min(one.image.size) >= 64:
            first.setdefault(one.group, one)
    return list(first.values())


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """The image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def codes(names: Iterable[str]) -> npt.NDArray[np.int64]:
    """(n,) a number for each name, equal for equal names."""
    return np.unique(list(names), return_inverse=True)[1].astype(np.int64)
