"""Marks: what a person says of pairs on the page of `made review`, as the file that it saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from made_core.corpus.sorting import Uids
from made_core.errors import UserError, first_fault
from made_core.io import files
from made_core.output.summary import Summary
from made_core.report.bands import Band
from made_core.report.precision import MarkedBand


class Mark(BaseModel):
    """A pair, marked as right or wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    eps: float = Field(description="Of the band that the pair was drawn from.")
    kept: str = Field(description="Uid of the kept sample.")
    removed: str = Field(description="Uid of the sample that is removed at this eps.")
    right: bool = Field(strict=True, description="Whether they are duplicates.")


class Marks(BaseModel):
    """The content of a marks file. The page writes it (templates/review.js)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["made-marks"]
    run: str
    decisions_digest: str
    eps: list[float] = Field(min_length=1, description="The eps of the review, ascending.")
    marks: list[Mark]


def read(url: str, run: Summary) -> Marks:
    """The marks file of a review of this run.

    Raises:
        UserError: there is no such file, it is not one that a review page saved, or it is of another run
            or of earlier decisions of this run.
    """
    try:
        found = Marks.model_validate_json(files.read(url))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"marks file {url}: there is no such file") from None
    except ValidationError as error:
        raise UserError(
            f"marks file {url} is not one that a page of `made review` saved: {first_fault(error)}"
        ) from None
    if found.run != run.run:
        raise UserError(f"marks file {url} is of run {found.run}, not of run {run.run}")
    if found.decisions_digest != run.decisions_digest:
        raise UserError(
            f"marks file {url} is of earlier decisions of run {run.run}; run `made review {run.run}` again"
        )
    if found.eps != sorted(set(found.eps)):
        raise UserError(f"marks file {url}: its eps must ascend, and are {found.eps}")
    return found


def counted(bands: Sequence[Band], uids: Uids, marks: Marks) -> list[MarkedBand]:
    """The bands with their marks, in order.

    Args:
        bands: of the eps of `marks`. uids: of all samples, by gid.

    Raises:
        UserError: a mark is not of a pair of its band, or a pair is marked twice.
    """
    pair_of: dict[tuple[float, str], str] = {}  # of the marked samples only: bands may have millions
    wanted = np.array([mark.removed.encode() for mark in marks.marks], np.bytes_)
    for band in bands:
        own = uids[band.removed]
        at = np.flatnonzero(np.isin(own, wanted))
        for removed, kept in zip(own[at].tolist(), uids[band.representatives[at]].tolist(), strict=True):
            pair_of[band.eps, removed.decode()] = kept.decode()
    twice = [key for key, n in Counter((m.eps, m.removed) for m in marks.marks).items() if n > 1]
    if twice:
        eps, uid = twice[0]
        raise UserError(f"marks: sample {uid} is marked twice at eps {eps:g}; remove one of its marks")
    for mark in marks.marks:
        if pair_of.get((mark.eps, mark.removed)) != mark.kept:
            raise UserError(
                f"marks: at eps {mark.eps:g} this run does not remove sample {mark.removed} because of "
                f"{mark.kept}; remove this mark"
            )
    return [
        MarkedBand(
            len(band.removed),
            sum(mark.eps == band.eps for mark in marks.marks),
            sum(mark.eps == band.eps and mark.right for mark in marks.marks),
        )
        for band in bands
    ]
