"""The stages of a run, one record each, and the outputs of their units.

A unit's output is a frozen dataclass. Fields of type FileRef or dict[str, FileRef] (one table for each
of several shards) are its files, all other fields its counts. The ledger stores each as a JSON object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter

from made_core.digests import digest
from made_core.types import Account, FileRef

FILES = (FileRef, dict[str, FileRef])  # types of the fields that are files


@dataclass(frozen=True)
class OutputRow:
    """A unit's output as the ledger stores it."""

    samples: int
    files: dict[str, Any]  # JSON of FileRef, or of a mapping of them, by field
    counts: dict[str, Any]  # JSON, by field


@dataclass(frozen=True)
class UnitOutput:
    """The output of a unit."""

    samples: int  # samples that the unit covers

    @property
    def refs(self) -> tuple[FileRef, ...]:
        """All files, in the order of the fields."""
        refs: list[FileRef] = []
        kind: Any = type(self)
        for name in _file_fields(kind):
            value = getattr(self, name)
            refs += value.values() if isinstance(value, Mapping) else [value]
        return tuple(refs)

    def to_row(self) -> OutputRow:
        """The output as the ledger stores it."""
        kind: Any = type(self)
        values = _adapter(kind).dump_python(self, mode="json")
        files = {name: values.pop(name) for name in _file_fields(kind)}
        return OutputRow(values.pop("samples"), files, values)


OutputT = TypeVar("OutputT", bound=UnitOutput)


def from_row(kind: type[OutputT], row: OutputRow) -> OutputT:
    """The output that `to_row` wrote. Raises pydantic.ValidationError if it does not match `kind`."""
    type_: Any = kind
    output: OutputT = _adapter(type_).validate_python({**row.files, **row.counts, "samples": row.samples})
    return output


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _file_fields(kind: type[Any]) -> tuple[str, ...]:
    types = get_type_hints(kind)
    return tuple(field.name for field in fields(kind) if types[field.name] in FILES)


@dataclass(frozen=True)
class EmbedOutput(UnitOutput):
    """A shard's embeddings and metadata, a row for EVERY sample in tar order."""

    rows: FileRef  # (samples, dim) float16 unit rows; zero for an unreadable sample
    metadata: FileRef  # of embed.metadata.SCHEMA
    unreadable: int  # samples
    warnings: int  # samples whose json or txt could not be read
    stray: int  # tar members that belong to no sample


@dataclass(frozen=True)
class CaptionsOutput(UnitOutput):
    """The embeddings and CLIP scores of a shard's captions, a row for EVERY sample in tar order."""

    rows: FileRef  # (samples, dim) float16 unit rows; zero for a sample without caption
    table: FileRef  # of embed.captions.SCHEMA
    captions: int  # samples with an embedded caption


@dataclass(frozen=True)
class IdentifyOutput(UnitOutput):
    """The identities of the corpus, by gid."""

    uids: FileRef  # (samples,) UTF-8 byte strings
    canonical: FileRef  # (samples,) int64 gid of the canonical sample of equal images; -1: unreadable
    images: int  # distinct images
    readable: int  # readable samples


@dataclass(frozen=True)
class FitOutput(UnitOutput):
    """The centroids; `samples` is the number of images they were trained on."""

    centroids: FileRef  # (k, dim) float32 unit rows
    k: int
    images: int  # in the corpus
    mean_cosine: float  # of the training images to their nearest centroids
    probes: int | None = None  # that suffice for the near pairs of a sample; None: the recipe says
    probes_pairs: int | None = None  # near pairs that this was measured on
    probes_recall: float | None = None  # share of these that are compared; None: there were too few to tell


@dataclass(frozen=True)
class AssignOutput(UnitOutput):
    """A batch's images in cluster order, one row per image and probe."""

    rows: FileRef  # (m, dim) float16, by (cluster, gid); m = images x probes
    members: FileRef  # (m,) of cluster_rows.member_type
    offsets: FileRef  # (k + 1,) int64: cluster c has the rows offsets[c] to offsets[c + 1] - 1
    homes: FileRef  # (images,) of cluster_rows.HOME, by gid
    images: int
    distance: float  # sum of 1 - cosine to the nearest centroid over the images


@dataclass(frozen=True)
class PairsOutput(UnitOutput):
    """The near pairs of a range of clusters, or of a slice of one; `samples` counts rows."""

    pairs: FileRef  # records of near_pairs.PAIR without a header
    stored: int  # pairs in the file
    histogram: tuple[int, ...]  # of their similarities, from `bound` to 1
    crowded: tuple[int, ...]  # clusters with too many pairs to store; the file has none of their pairs
    bound: float  # pairs have a similarity above this


@dataclass(frozen=True)
class DrawOutput(UnitOutput):
    """The images drawn for the audit."""

    gids: FileRef  # (queries,) int64, ascending
    rows: FileRef  # (queries, dim) float16
    probes: FileRef  # (queries, p) int32, home first
    images: int  # in the corpus


@dataclass(frozen=True)
class AuditOutput(UnitOutput):
    """The drawn images compared with a batch of shards."""

    counts: FileRef  # (queries, 2) int64: near pairs at eps, and how many of these were compared


@dataclass(frozen=True)
class ResolveOutput(UnitOutput):
    """Every sample's decision, by gid."""

    reason: FileRef  # (n,) int8 codes; -1: kept
    representative: FileRef  # (n,) int64 gid of the kept sample that represents it; -1: none
    represented_by: FileRef  # (n,) uid of that sample if it is another one, else empty
    similarity: FileRef  # (n,) float64, of both; NaN: none, or not known
    cluster: FileRef  # (n,) int32 home cluster; -1: unreadable
    kept: FileRef  # int64 gids that this run kept, ascending
    kept_samples: int
    kept_earlier: int  # samples kept by the extended run
    represented_earlier: int  # new samples represented by one of those
    placeholder_images: int
    placeholder_samples: int
    broken: int  # new duplicates without a kept representative; 0 but for a bug
    hex_uids: bool  # every kept uid is 128-bit hex, so keep.npy can hold them


@dataclass(frozen=True)
class TabulateOutput(UnitOutput):
    """The decision tables of a batch of shards."""

    tables: dict[str, FileRef]  # by the shard's id
    accounts: dict[str, Account]  # by the shard's id
    checked: int  # removed duplicates
    recomputed: int  # of these, those whose similarity was computed from the stored rows again
    mismatched: int  # of these, those for which the decisions have another similarity; 0 but for a bug
    broken: int  # removed duplicates that are not within eps of their representative


@dataclass(frozen=True)
class WriteOutput(UnitOutput):
    """An output shard."""

    tar: FileRef
    listing: FileRef  # parquet, one row per sample
    stats: FileRef  # img2dataset's _stats.json


@dataclass(frozen=True)
class Stage(Generic[OutputT]):
    """A step of a run: a set of units in the ledger whose results depend only on scope and key.

    Raise `version` when the same input gives another result: results of earlier versions are then
    not reused.
    """

    name: str  # in the ledger and in messages
    folder: str  # of its files, in the store or in the output
    version: int
    key: str  # what a unit's key names
    output: type[OutputT]
    in_output: bool = False  # its files belong to the output and move there when it is published

    def scope(self, *parts: object) -> str:
        """16 hex digits over the stage, its version and `parts` (JSON values that results depend on)."""
        return digest([self.name, self.version, *parts])


EMBED = Stage("embed", "embeddings", 3, "an input shard, by fingerprint", EmbedOutput)
CAPTIONS = Stage("captions", "captions", 1, "an input shard, by fingerprint", CaptionsOutput)
IDENTIFY = Stage("identify", "identities", 1, "the corpus", IdentifyOutput)
FIT = Stage("fit", "centroids", 3, "the corpus", FitOutput)
ASSIGN = Stage("assign", "cluster_rows", 1, "a batch of shards, as FIRST-STOP of their parts", AssignOutput)
PAIRS = Stage("pairs", "pairs", 1, "a pair task: a range of clusters, or a slice of one", PairsOutput)
DRAW = Stage("draw", "draws", 1, "the corpus", DrawOutput)
AUDIT = Stage("audit", "audits", 1, "a batch of shards, as FIRST-STOP of their parts", AuditOutput)
RESOLVE = Stage("resolve", "decisions", 4, "the corpus", ResolveOutput)
TABULATE = Stage(
    "tabulate",
    "decisions",
    3,
    "a batch of shards, as FIRST-STOP of their parts",
    TabulateOutput,
    in_output=True,
)
WRITE = Stage("write", "shards", 2, "an output shard, by name", WriteOutput, in_output=True)

# In the order of a run.
STAGES: tuple[Stage[Any], ...] = (
    EMBED, CAPTIONS, IDENTIFY, FIT, ASSIGN, PAIRS, DRAW, AUDIT, RESOLVE, TABULATE, WRITE,
)  # fmt: skip
BY_NAME = {stage.name: stage for stage in STAGES}
CORPUS_KEY = "corpus"  # key of the only unit of a stage that has the corpus as its unit
