"""The summary of a run: one model, which summary.json, the report and the command line show.

docs/formats.md's table and docs/summary.schema.json are made from it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from made_core.errors import DamagedFile
from made_core.io import files, paths
from made_core.types import RunState


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SampleCounts(_Facts):
    """in = kept + sum(dropped) + unreadable."""

    in_: int = Field(alias="in", description="Samples in the input shards that were read.")
    kept: int = Field(description="Samples in the output.")
    dropped: dict[str, int] = Field(
        description="Samples dropped, by reason; reasons without any are left out."
    )
    unreadable: int = Field(description="Samples without an image that could be embedded.")


class Drift(_Facts):
    """How far a growing corpus has moved from its centroids."""

    distance: float = Field(
        description="New images' mean distance to their centroids, as a multiple of the training images'."
    )
    growth: float = Field(description="Images now, as a multiple of those when the centroids were trained.")
    train_anew: bool = Field(description="Whether a run without `extends` is advised.")


class Extends(_Facts):
    """What the run added to."""

    run: str = Field(description="The run that is extended.")
    output: str = Field(description="Its output.")
    generation: int = Field(description="2 for the first run that extends another.")
    samples: int = Field(description="Samples of the corpus before this run.")
    kept: int = Field(description="Of these, the kept ones.")
    represents: int = Field(description="New samples that one of those represents.")
    mark: str = Field(description="Digest of what this run builds on.")
    drift: Drift


class Placeholders(_Facts):
    """Images under so many captions that they show none of them."""

    images: int = Field(description="Different images that are placeholders.")
    samples: int = Field(description="Samples that show one.")


class ShardCounts(_Facts):
    """The shards of a run."""

    in_: int = Field(alias="in", description="Input shards.")
    failed: int = Field(description="Input shards that could not be read.")
    out: int = Field(description="Output shards.")
    shortfall: int = Field(description="Samples fewer than the shards' _stats.json say.")


class EncoderFacts(_Facts):
    """The encoder as resolved for the run."""

    model: str
    dim: int = Field(description="Length of a row.")
    device: str
    precision: str
    batch_size: int = Field(description="Images of a forward pass.")
    key: str = Field(description="Digest of weights, preprocessing, device, precision and batch size.")


class ClusterSizes(_Facts):
    """Rows of the clusters, each image once for every probe."""

    min: int
    median: float
    max: int
    empty: int = Field(description="Clusters without a row.")


class ClusterFacts(_Facts):
    """The clusters."""

    k: int = Field(description="Clusters.")
    probes: int = Field(description="Nearest clusters in which an image is compared.")
    trained_on: int = Field(description="Images that the centroids were trained on.")
    mean_cosine: float = Field(description="Of these images to their centroids.")
    sizes: ClusterSizes


class DedupFacts(_Facts):
    """The search for near pairs, and the rule."""

    rule: str
    keep: str = Field(description="Who comes first, and so stays.")
    eps: float
    eps_is_default: bool = Field(description="Whether eps is the encoder's default.")
    eps_max: float = Field(description="Pairs are stored down to the cosine 1 - eps_max.")
    pairs: int = Field(description="Near pairs that are stored; those of crowded clusters are not.")
    crowded_clusters: int = Field(
        description="Clusters with too many near pairs to store (work.pairs_per_sample): they are compared "
        "again when samples are decided."
    )
    crowded_rows: int = Field(description="Rows of these clusters.")


class RecallFacts(_Facts):
    """Of the near pairs at eps, how many were compared: clusters have borders."""

    queries: int = Field(
        description="Images drawn at random. All images: exact. 0: every image probes every cluster."
    )
    with_duplicates: int = Field(description="Of these, the ones with a near pair.")
    pairs: int = Field(description="Near pairs of the drawn images with all others.")
    found: int = Field(description="Of these pairs, those that were compared.")
    estimate: float | None = Field(description="found / pairs; null: no near pairs.")
    low: float | None = Field(description="Low end of the 95 % interval.")
    high: float | None = Field(description="High end of the 95 % interval.")
    probes: int = Field(description="Nearest clusters in which an image is compared.")

    @property
    def sentence(self) -> str:
        """The figures in words."""
        if not self.queries:
            return "Every image was compared with every other: recall 1, exactly"
        if self.estimate is None or self.low is None or self.high is None:
            return f"None of {self.queries:,} sampled images has a duplicate: the recall is unknown"
        start = f"Found {self.found:,} of {self.pairs:,} duplicate pairs of"
        if self.low == self.high:
            return f"{start} all {self.queries:,} images: recall {_share(self.estimate)}, exactly"
        interval = f"(95 % interval {_share(self.low)} to {_share(self.high)})"
        return f"{start} {self.queries:,} sampled images: recall {_share(self.estimate)} {interval}"


class Promise(_Facts):
    """Removed duplicates whose similarity to their representative was computed again."""

    checked: int = Field(description="How many: all of them.")
    broken: int = Field(
        description="Of these, those whose representative is not kept or not within eps; 0 under `cover`."
    )


class Summary(_Facts):
    """What summary.json holds. Where it is, the output is whole."""

    run: str = Field(description="The run's id.")
    made: str = Field(description="Version of the program.")
    decisions_digest: str = Field(description="Digest of all that the decisions depend on.")
    state: RunState = Field(description="`completed` or `completed_with_failures`.")
    started: str = Field(description="UTC, ISO 8601.")
    seconds: float = Field(description="Wall time of the run.")
    seconds_by_stage: dict[str, float] = Field(
        description="Wall time from a stage's first start to its last finish, perhaps by an earlier run."
    )
    samples: SampleCounts = Field(description="in = kept + sum(dropped) + unreadable.")
    extends: Extends | None = Field(description="What the run extends; null: it began a corpus.")
    placeholders: Placeholders = Field(description="Images under many captions.")
    shards: ShardCounts = Field(description="The shards.")
    encoder: EncoderFacts = Field(description="The encoder as resolved for the run.")
    clusters: ClusterFacts = Field(description="The clusters.")
    dedup: DedupFacts = Field(description="The search for near pairs, and the rule.")
    recall: RecallFacts | None = Field(
        description="Of the near pairs at eps, how many were compared; null: audit.queries is 0."
    )
    promise: Promise = Field(description="The check that every removed duplicate is represented.")
    keep_npy: str | None = Field(description="Why keep.npy is not written; null: it is.")
    warnings: list[str] = Field(
        description="Tars that were not admitted, shortfalls, unreadable json or txt, stray members."
    )
    output: str = Field(description="The output's folder or URL.")
    store: str = Field(description="The store's folder or URL.")

    def json_text(self) -> str:
        """The text of summary.json."""
        return self.model_dump_json(by_alias=True, indent=4)

    def document(self) -> dict[str, Any]:
        """What summary.json holds, as the ledger stores it."""
        return self.model_dump(mode="json", by_alias=True)

    def same_output(self, other: Summary) -> bool:
        """Whether both describe the same output, whenever and however fast it was made."""
        varies = {"started", "seconds", "seconds_by_stage"}
        return self.model_dump(exclude=varies) == other.model_dump(exclude=varies)


def read(output: str) -> Summary | None:
    """The summary of a finished output; None: there is none, or one of another version of made.

    Raises StorageFailed.
    """
    try:
        return Summary.model_validate_json(files.read(files.join(output, paths.SUMMARY)))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def parsed(document: dict[str, Any], run: str) -> Summary:
    """The summary that a ledger stores of a run. Raises DamagedFile: it is of another form."""
    try:
        return Summary.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise DamagedFile(f"run {run}: its summary in the ledger does not parse: {error}") from None


def _share(share: float) -> str:
    """Three decimals; all but a few are never shown as all."""
    return "> 0.999" if 0.9995 <= share < 1 else f"{share:.3f}"
