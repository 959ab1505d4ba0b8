"""The knobs of a run: one frozen pydantic model. Unknown keys are refused, every bound checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from made_core.digests import digest
from made_core.filters import FILTERS


class Part(BaseModel):
    """A frozen part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Admission(Part):
    """Which tars are shards."""

    require_stats: bool = Field(
        True,
        description="Admit a tar only with img2dataset's NNNNN_stats.json beside it, which marks "
        "it as finished. Turn off for shards of other makers.",
    )


class Reading(Part):
    """Limits on an image."""

    max_pixels: int = Field(
        100_000_000,
        ge=1,
        description="Images with more pixels (width x height) are unreadable: a bound on memory.",
    )


class Encoder(Part):
    """What turns an image into a vector."""

    model: str = Field(
        "perceptual",
        min_length=1,
        description="`perceptual` (built in, no weights: near-duplicates only), `mean-colour` "
        "(a baseline), or an open_clip model name such as ViT-B-32.",
    )
    pretrained: str | None = Field(
        None,
        examples=["openai"],
        description="open_clip's pretrained tag, or the path of a checkpoint file.",
    )
    config: str | None = Field(
        None,
        examples=["my-model.json"],
        description="Path of an open_clip model-config JSON; its file name is the model name.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda where the workers have it, else cpu."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Of weights and activations. auto: bf16 on cuda, fp32 on cpu."
    )
    batch_size: int | Literal["auto"] = Field(
        "auto", description="Images a forward pass, 1 to 65536. auto: 256 on cuda, 32 on cpu."
    )

    @model_validator(mode="after")
    def _check(self) -> Encoder:
        if self.batch_size != "auto" and not 1 <= self.batch_size <= 65536:
            raise ValueError(f"batch_size is {self.batch_size}, allowed: auto, or 1 to 65536")
        builtin = self.model in ("perceptual", "mean-colour")
        if builtin and (self.pretrained or self.config):
            raise ValueError(f"model {self.model} is built in: it takes no pretrained, no config")
        if not builtin and not self.pretrained:
            raise ValueError(
                f"model {self.model} needs `pretrained` (a tag or a checkpoint file): "
                "random weights tell nothing"
            )
        return self


class Clusters(Part):
    """Spherical k-means."""

    k: int | Literal["auto"] = Field(
        "auto",
        description="Clusters, 1 to 1000000. auto: 1 per 1024 samples, at most sqrt(samples).",
    )
    probes: int = Field(1, ge=1, le=64, description="Nearest clusters in which a sample is compared.")
    samples_per_centroid: int = Field(
        256, ge=1, le=100_000, description="Samples to train on, for each centroid."
    )
    iterations: int = Field(20, ge=1, le=1000, description="Of k-means.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the initial centroids.")

    @model_validator(mode="after")
    def _check(self) -> Clusters:
        if self.k != "auto" and not 1 <= self.k <= 1_000_000:
            raise ValueError(f"k is {self.k}, allowed: auto, or 1 to 1000000")
        return self


class Dedup(Part):
    """Which near pairs cost a sample its place."""

    rule: Literal["cover", "reference"] = Field(
        "cover",
        description="cover: a sample is kept iff no KEPT earlier one is within eps. "
        "reference: SemDeDup's, in the cluster, where the earlier one may be removed itself.",
    )
    eps: float | None = Field(
        None,
        gt=0,
        lt=1,
        examples=[0.05],
        description="Two samples are duplicates above the cosine 1 - eps. Default: the encoder's.",
    )
    eps_max: float | None = Field(
        None,
        gt=0,
        lt=1,
        examples=[0.1],
        description="Pairs are stored down to 1 - eps_max, so that a smaller eps needs no new "
        "search. Default: twice the encoder's default eps, or eps where that is more.",
    )
    keep: Literal["hard", "easy", "random", "largest", "clip_score", "earliest", "column"] = Field(
        "hard",
        description="Who comes first and so stays. hard: farthest from the centroid; easy: "
        "nearest; random: by a seeded hash; largest: most pixels; clip_score: the highest that its "
        "json names; earliest: by shard name, then place in it; column: by keep_column.",
    )
    keep_column: str | None = Field(
        None,
        examples=["original_width"],
        description="Numeric field of the sample's json, for keep: column.",
    )
    keep_prefer: Literal["max", "min"] = Field(
        "max", description="Which value of keep_column is best; samples without one come last."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="For keep: random.")
    placeholder_captions: int | None = Field(
        10,
        ge=2,
        description="An image whose bytes stand under this many different captions is called a "
        "placeholder (an error image, a logo). null: none is.",
    )
    placeholders: Literal["keep_one", "drop"] = Field(
        "keep_one",
        description="keep_one: treated as other copies, one may stay. drop: all are dropped.",
    )

    @model_validator(mode="after")
    def _check(self) -> Dedup:
        if (self.keep == "column") != (self.keep_column is not None):
            raise ValueError("keep: column and keep_column go together")
        if self.eps is not None and self.eps_max is not None and self.eps > self.eps_max:
            raise ValueError(f"eps is {self.eps}, allowed: up to eps_max, {self.eps_max}")
        return self


class Audit(Part):
    """How much the borders between clusters cost: the recall of the pairs, measured on a sample."""

    queries: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="Images, drawn at random, that are compared with all others. 0: off; as many "
        "as there are images: exact.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the draw.")


if TYPE_CHECKING:

    class Filters(Part):
        """For mypy, which cannot follow create_model; `filters.apply` reads the fields by name."""

        def __init__(self, **bounds: Any) -> None: ...

else:
    Filters = create_model(
        "Filters",
        __base__=Part,
        __module__=__name__,
        __doc__="Samples that fail one are dropped with its reason and represent nobody. Off by default.",
        **{
            f.field: (f.type | None, Field(None, description=f.description, examples=[f.example]))
            for f in FILTERS
        },
    )


class Writing(Part):
    """The output shards."""

    samples_per_shard: int = Field(
        10_000, ge=1, le=10_000_000, description="Samples in each output shard but the last."
    )


class Work(Part):
    """How the work is cut; nothing here changes a result."""

    shards_per_task: int = Field(16, ge=1, le=10_000, description="Input shards a Prefect task.")
    tasks_in_flight: int = Field(64, ge=1, le=10_000, description="Submitted and not yet finished.")
    cpus_per_task: float = Field(1, gt=0, le=1024, description="Ray CPUs that a task asks for.")
    gpus_per_task: float = Field(0, ge=0, le=64, description="Ray GPUs that an embed task asks for.")
    block_rows: int = Field(
        2048, ge=1, le=65536, description="Rows of a block in the search for pairs: bounds memory."
    )
    pairs_per_sample: int = Field(
        32,
        ge=0,
        le=1_000_000,
        description="Near pairs a sample, beyond which a cluster's are not stored but found anew "
        "when samples are decided: bounds what groups of thousands of near-equal images cost.",
    )
    attempts: int = Field(3, ge=1, le=100, description="Of a unit, before it is set aside.")
    lease_seconds: float = Field(
        60, ge=1, le=86_400, description="Until a silent worker's unit is given to another."
    )
    fail_fast: bool = Field(
        False, description="Stop at the first shard that is set aside, not when all were tried."
    )
    max_failed_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the input shards that may fail, 0 to 1; beyond it the run stops "
        "before it clusters.",
    )


class Recipe(Part):
    """A run: what goes in, what is done, where it comes out."""

    sources: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        examples=[["/data/laion/shards", "s3://bucket/more/{00000..01279}.tar"]],
        description="Folders, tars, globs, brace patterns ({00000..01279}.tar) or fsspec URLs.",
    )
    output: str = Field(
        min_length=1,
        examples=["/data/laion/curated"],
        description="Folder or URL; belongs to one run.",
    )
    extends: str | None = Field(
        None,
        min_length=1,
        examples=["20261123-104006-bd89"],
        description="Id of a completed run: this one is the next generation of its corpus. It takes "
        "what it does not say from that run's recipe, and its centroids; what that run kept stays.",
    )
    store: str | None = Field(
        None,
        examples=["/data/laion/store"],
        description="Folder or URL of embeddings, clusters and pairs; runs may share one. "
        "Default: <output>/store, or the store of the run that is extended.",
    )
    admission: Admission = Admission()
    reading: Reading = Reading()
    encoder: Encoder = Encoder()
    clusters: Clusters = Clusters()
    dedup: Dedup = Dedup()
    audit: Audit = Audit()
    filters: Filters = Filters()
    writing: Writing = Writing()
    work: Work = Work()

    @model_validator(mode="before")
    @classmethod
    def _without_empty_parts(cls, values: Any) -> Any:
        """A YAML part whose lines are all comments is None: its defaults hold."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None}

    @property
    def store_url(self) -> str:
        """The store's folder or URL."""
        return self.store or f"{self.output.rstrip('/')}/store"

    @property
    def recipe_digest(self) -> str:
        """16 hex digits over all that decides the output: no place, nor `audit` and `work`.

        A filter that is off is no part of it, so that a new filter leaves the digests as they are; but
        for those that version 0.1 had.
        """
        values = self.model_dump(mode="json", exclude={"store", "audit", "work", "output"})
        of_0_1 = ("min_side", "max_aspect", "min_words", "min_chars")
        values["filters"] = {k: v for k, v in values["filters"].items() if v is not None or k in of_0_1}
        return digest(values)
