"""The summary of a run: one model for summary.json, the report and the command line.

The table in docs/formats.md and docs/summary.schema.json are generated from it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from made_core.errors import DamagedFile
from made_core.io import files, paths
from made_core.types import RunState

NO_SHARDS = "writing.shards is false"  # why an output has no shards, in all messages


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SampleCounts(_Facts):
    """in = kept + sum(dropped) + unreadable."""

    in_: int = Field(alias="in", description="Samples in the input shards that were read.")
    kept: int = Field(description="Samples kept.")
    dropped: dict[str, int] = Field(
        description="Samples dropped, by reason; reasons without samples are left out."
    )
    unreadable: int = Field(description="Samples without an image that could be embedded.")


class Drift(_Facts):
    """How far a growing corpus has moved from its centroids."""

    distance: float = Field(
        description="Mean distance of the new images to their centroids, relative to the training images'."
    )
    growth: float = Field(
        description="Number of images, relative to the number when the centroids were trained."
    )
    train_anew: bool = Field(
        description="Whether new centroids are recommended: a run without `extends` trains them."
    )


class Extends(_Facts):
    """The run that this run extends."""

    run: str = Field(description="Id of the extended run.")
    output: str = Field(description="Output of the extended run.")
    generation: int = Field(description="Number of the generation; 2 for the first run that extends another.")
    samples: int = Field(description="Samples in the corpus before this run.")
    kept: int = Field(description="Kept samples among these.")
    represents: int = Field(description="New samples represented by a sample kept earlier.")
    mark: str = Field(description="Digest of the results that this run builds on.")
    drift: Drift


class Placeholders(_Facts):
    """Images that appear under many different captions."""

    images: int = Field(description="Distinct images that are placeholders.")
    samples: int = Field(description="Samples that show a placeholder.")


class ShardCounts(_Facts):
    """The shards of a run."""

    in_: int = Field(alias="in", description="Input shards.")
    failed: int = Field(description="Input shards that could not be read.")
    unread: int = Field(
        0,
        description="Shards that img2dataset has not finished, which were not read: without a valid "
        "_stats.json, cut off, or missing in the numbering.",
    )
    unfinished_folders: int = Field(
        0, description="Folders among the sources with such shards, or with `_tmp`: img2dataset runs there."
    )
    out: int = Field(description="Output shards.")
    written: bool = Field(
        True, description="Whether output shards were written; false: `writing.shards` is false, `out` is 0."
    )
    shortfall: int = Field(description="Samples missing compared to the shards' _stats.json.")

    @property
    def sentence(self) -> str:
        """The counts of shards as a sentence without a full stop."""
        why = "" if self.written else f" ({NO_SHARDS})"
        unread = f"{self.unread:,} unfinished and not read, " if self.unread else ""
        return f"{self.in_:,} in, {self.failed:,} failed, {unread}{self.out:,} out{why}"


class EncoderFacts(_Facts):
    """The encoder as resolved for the run."""

    model: str
    dim: int = Field(description="Dimensions of an embedding.")
    device: str
    precision: str
    batch_size: int = Field(description="Images per forward pass.")
    key: str = Field(description="Digest of weights, preprocessing, device, precision and batch size.")
    caption_key: str | None = Field(
        None, description="Digest of the text tower and its settings; null: captions were not embedded."
    )


class ClusterSizes(_Facts):
    """Rows per cluster; each image has one row per probe."""

    min: int
    median: float
    max: int
    empty: int = Field(description="Clusters without rows.")


class ClusterFacts(_Facts):
    """The clusters."""

    k: int = Field(description="Number of clusters.")
    probes: int = Field(description="Number of nearest clusters in which an image is compared.")
    probes_recall: float | None = Field(
        None,
        description="Share of the near pairs found in a sample that these compare, which `probes: auto` goes "
        "by; null: the recipe says how many, or there were too few near pairs to tell.",
    )
    trained_on: int = Field(description="Images that the centroids were trained on.")
    mean_cosine: float = Field(description="Mean cosine of these images to their nearest centroids.")
    sizes: ClusterSizes


class DedupFacts(_Facts):
    """The search for near pairs, and the rule."""

    rule: str
    keep: str = Field(description="The keep rule: which of several duplicates is kept.")
    eps: float
    eps_is_default: bool = Field(description="Whether eps is the encoder's default.")
    eps_max: float = Field(description="Pairs are stored down to the cosine 1 - eps_max.")
    pairs: int = Field(description="Near pairs that are stored; those of crowded clusters are not.")
    crowded_clusters: int = Field(
        description="Clusters with too many near pairs to store (work.pairs_per_sample). Their pairs are "
        "recomputed when samples are decided."
    )
    crowded_rows: int = Field(description="Rows in these clusters.")


class RecallFacts(_Facts):
    """The share of the near pairs at eps that were compared; others cross cluster borders.

    Rule `reference` uses only pairs with the same home cluster: other pairs do not count as compared.
    """

    queries: int = Field(
        description="Images drawn at random; the result is exact if these are all images. 0: every image "
        "is compared in every cluster, so the recall is 1."
    )
    with_duplicates: int = Field(description="Drawn images with a near pair.")
    pairs: int = Field(description="Near pairs of the drawn images with all others.")
    found: int = Field(description="Those of these pairs that were compared.")
    estimate: float | None = Field(description="found / pairs; null: there are no near pairs.")
    low: float | None = Field(description="Lower bound of the 95 % interval.")
    high: float | None = Field(description="Upper bound of the 95 % interval.")
    probes: int = Field(
        description="Number of nearest clusters in which an image is compared; with rule `reference` 1, "
        "as it uses only pairs with the same nearest cluster."
    )

    @property
    def sentence(self) -> str:
        """The result as a sentence without a full stop."""
        if not self.queries:
            return "Every image was compared with every other: recall 1, exactly"
        if self.estimate is None or self.low is None or self.high is None:
            return f"None of {self.queries:,} sampled images has a duplicate: the recall is unknown"
        start = f"Found {self.found:,} of {self.pairs:,} duplicates of"
        if self.low == self.high:
            return f"{start} all {self.queries:,} images: recall {_share(self.estimate)}, exactly"
        interval = f"(95 % interval {_share(self.low)} to {_share(self.high)})"
        return f"{start} {self.queries:,} sampled images: recall {_share(self.estimate)} {interval}"


class Promise(_Facts):
    """The check that every removed duplicate has a kept representative within eps."""

    checked: int = Field(description="Removed duplicates: each has a kept representative.")
    recomputed: int | None = Field(
        None,
        description="Those whose similarity was computed from the stored rows again: all of a shard whose "
        "pairs are in at most 64 MiB of the stored rows, else 32 drawn from it. null: all.",
    )
    broken: int = Field(
        description="Those whose representative is not within eps; always 0 with rule `cover`."
    )


class Summary(_Facts):
    """The content of summary.json. An output with this file is complete."""

    run: str = Field(description="Id of the run.")
    made: str = Field(description="Version of made.")
    decisions_digest: str = Field(description="Digest of everything that the decisions depend on.")
    state: RunState = Field(description="`completed` or `completed_with_failures`.")
    started: str = Field(description="Start time of the run in UTC, ISO 8601.")
    seconds: float = Field(description="Wall time of the run in seconds.")
    seconds_by_stage: dict[str, float | None] = Field(
        description="Wall time in seconds of the units of each stage that this run computed, from the first "
        "start to the last finish; null: all of them had been computed before."
    )
    samples: SampleCounts = Field(description="Counts of samples: in = kept + sum(dropped) + unreadable.")
    extends: Extends | None = Field(description="The run that this run extends; null: it started a corpus.")
    placeholders: Placeholders = Field(description="Images that appear under many different captions.")
    shards: ShardCounts = Field(description="Counts of shards.")
    encoder: EncoderFacts = Field(description="The encoder as resolved for the run.")
    clusters: ClusterFacts = Field(description="The clusters.")
    dedup: DedupFacts = Field(description="The search for near pairs, and the rule.")
    filters: dict[str, JsonValue] = Field(
        default_factory=dict, description="The filters that were on: their bounds, by the recipe's fields."
    )
    recall: RecallFacts | None = Field(
        description="The share of the near pairs at eps that were compared; null: audit.queries is 0."
    )
    promise: Promise = Field(
        description="The check that every removed duplicate has a kept representative within eps."
    )
    keep_npy: str | None = Field(description="Why keep.npy was not written; null: it was.")
    warnings: list[str] = Field(
        description="Warnings: unfinished folders, tars not admitted, failed shards, shortfalls, unreadable "
        "json or txt, stray members."
    )
    output: str = Field(description="Folder or URL of the output.")
    store: str = Field(description="Folder or URL of the store.")

    @property
    def lacks_shards(self) -> bool:
        """Whether shards are missing that a later run may read."""
        shards = self.shards
        return bool(shards.failed or shards.unread or shards.unfinished_folders)

    def json_text(self) -> str:
        """The text of summary.json."""
        return self.model_dump_json(by_alias=True, indent=4)

    def document(self) -> dict[str, Any]:
        """The content of summary.json as a JSON object, for the ledger."""
        return self.model_dump(mode="json", by_alias=True)

    def same_output(self, other: Summary) -> bool:
        """Whether both describe the same output, ignoring start and run times."""
        varies = {"started", "seconds", "seconds_by_stage"}
        return self.model_dump(exclude=varies) == other.model_dump(exclude=varies)


def read(output: str) -> Summary | None:
    """The summary of a finished output; None if it has none, or one of another version of made.

    Raises StorageFailed.
    """
    try:
        return Summary.model_validate_json(files.read(files.join(output, paths.SUMMARY)))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def parsed(document: dict[str, Any], run: str) -> Summary:
    """The summary of a run from its ledger entry. Raises DamagedFile if it is not valid."""
    try:
        return Summary.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise DamagedFile(f"run {run}: its summary in the ledger is not valid: {error}") from None


def has_shards(document: dict[str, Any]) -> bool:
    """Whether a run wrote output shards, by its summary, which another version of made may have written."""
    return bool(document.get("shards", {}).get("written", True))


def _share(share: float) -> str:
    """Three decimals; a share below 1 is never shown as 1."""
    return "> 0.999" if 0.9995 <= share < 1 else f"{share:.3f}"
