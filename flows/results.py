"""What the steps of a run hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.generation import Generation
from made_core.corpus.corpus import Corpus
from made_core.ledger.records import Result
from made_core.stages import (
    AssignOutput,
    EmbedOutput,
    FitOutput,
    IdentifyOutput,
    ResolveOutput,
    TabulateOutput,
)
from made_core.types import FileRef


@dataclass(frozen=True)
class Embedded:
    """The corpus, the generation that it extends, and the failed shards."""

    corpus: Corpus
    ref: FileRef
    earlier: Generation | None
    results: Mapping[str, Result[EmbedOutput]]  # by fingerprint
    failed: Mapping[str, str]  # shard id -> error


@dataclass(frozen=True)
class Clustered:
    """The corpus in cluster order."""

    identities: IdentifyOutput
    fit: FitOutput
    scope: str
    batches: Mapping[str, AssignOutput]  # by range of parts, earlier generations first
    own: tuple[AssignOutput, ...]  # this run's


@dataclass(frozen=True)
class Decided:
    """The decisions, over the whole corpus and by input shard."""

    digest: str  # of everything that they depend on
    resolved: ResolveOutput
    tables: tuple[TabulateOutput, ...]
