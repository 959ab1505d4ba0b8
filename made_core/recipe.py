"""The recipe of a run: one frozen pydantic model. Unknown fields are errors; every bound is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from made_core.digests import digest
from made_core.filters import FILTERS
from made_core.recipe_dedup import Dedup
from made_core.recipe_section import Section

BUILTIN_ENCODERS = ("perceptual", "mean-colour")  # of made_core/embed/encoder.py: they need no weights


class Admission(Section):
    """Which tars are admitted as shards."""

    require_stats: bool = Field(
        True,
        description="Admit a tar only beside img2dataset's NNNNN_stats.json, which marks it as finished.",
    )


class Reading(Section):
    """Limits on an image."""

    max_pixels: int = Field(
        100_000_000,
        ge=1,
        le=10_000_000_000,
        description="More pixels (width x height) make an image unreadable: bounds memory.",
    )


class Encoder(Section):
    """The model that turns an image into a vector."""

    model: str = Field(
        "perceptual",
        min_length=1,
        description="`perceptual` (built in, without weights; finds near-duplicates only), `mean-colour` "
        "(built in; a baseline), or an open_clip model name such as ViT-B-32.",
    )
    pretrained: str | None = Field(
        None,
        examples=["openai"],
        description="open_clip's pretrained tag, or a checkpoint file's path; open_clip models need one.",
    )
    config: str | None = Field(
        None,
        examples=["my-model.json"],
        description="Path of an open_clip model config (JSON); its file name without .json is the model.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the model. auto: cuda if the workers have it, else cpu."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of weights and activations. auto: bf16 where it is faster (measured on a CPU "
        "when the run starts) and close to fp32, else fp32.",
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        "auto",
        description="Images per forward pass. auto: 256 on cuda, halved until a batch fits in its memory; 8 "
        "on cpu (32 for built-in encoders).",
    )
    captions: Literal["auto", "embed", "skip"] = Field(
        "auto",
        description="Whether captions are embedded too, by the model's text tower, and each sample gets its "
        "CLIP score: a fifth of the time of the images, or less. auto: embed where the model has a text "
        "tower and its tokenizer is installed; built-in encoders have none.",
    )
    mirrored: bool | None = Field(
        None, examples=[False], description="Whether mirror images are alike. Default: true for `perceptual`."
    )

    @model_validator(mode="after")
    def _check(self) -> Encoder:
        if self.mirrored and self.model != "perceptual":
            raise ValueError(f"mirrored is true, but model is {self.model}; allowed: with perceptual")
        builtin = self.model in BUILTIN_ENCODERS
        if builtin and self.captions == "embed":
            raise ValueError(
                f"captions is embed, but model {self.model} has no text tower; allowed: auto, skip, "
                "or an open_clip model"
            )
        if builtin and (self.pretrained or self.config):
            raise ValueError(f"model {self.model} is built in: remove `pretrained` and `config`")
        if not builtin and not self.pretrained:
            raise ValueError(f"model {self.model} needs `pretrained`: a tag or a checkpoint file")
        return self


class Clusters(Section):
    """Spherical k-means."""

    k: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = Field(
        "auto", description="Number of clusters. auto: 1 per 1024 images, at most sqrt(images)."
    )
    probes: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto",
        description="Nearest clusters in which an image is compared. auto: the fewest, at most 8, that "
        "compare 99.5 % of the near pairs found in a sample, to have 99 % of all; at least 2 where fewer "
        "than 300 images of the sample have one.",
    )
    samples_per_centroid: int = Field(256, ge=1, le=100_000, description="Images to train on, per centroid.")
    iterations: int = Field(20, ge=1, le=1000, description="Iterations of k-means.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the training sample and initial centroids.")


class Audit(Section):
    """The audit: measures on a random sample how many near pairs the clusters miss (the recall)."""

    queries: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="Images drawn at random and compared with all others. 0: off. The result is exact if "
        "this is at least the number of images.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the draw.")


if TYPE_CHECKING:

    class Filters(Section):
        """For mypy, which does not understand create_model; `filters.apply` reads the fields by name."""

        def __init__(self, **bounds: Any) -> None: ...

else:
    Filters = create_model(
        "Filters",
        __base__=Section,
        __module__=__name__,
        __doc__="Samples that fail a filter are dropped and represent no other. Off by default. The "
        "original image's size is original_width x original_height of the json, else the stored image's.",
        **{
            f.field: (f.type | None, Field(None, description=f.description, examples=[f.example]))
            for f in FILTERS
        },
    )


class Writing(Section):
    """The output shards."""

    shards: bool = Field(
        True,
        description="Write the kept samples as output shards. false: nothing is copied; the output has the "
        "keep lists, decision tables, accounts, summary and report.",
    )
    samples_per_shard: int = Field(
        10_000, ge=1, le=10_000_000, description="Samples per output shard; the last may have fewer."
    )


class Work(Section):
    """How the work is divided; no field changes the result."""

    shards_per_task: int = Field(
        16,
        ge=1,
        le=10_000,
        description="Input shards per Prefect task; more where each worker has hundreds before it.",
    )
    tasks_in_flight: int = Field(
        64, ge=1, le=10_000, description="Prefect tasks that are submitted and not finished, at most."
    )
    cpus_per_task: float = Field(1, gt=0, le=1024, description="Ray CPUs that a task requests.")
    embed_cpus_per_task: Annotated[float, Field(gt=0, le=1024)] | Literal["auto"] = Field(
        "auto",
        description="Ray CPUs that an embed task requests; as many threads decode. auto: with a GPU, the "
        "task's share of the node's CPUs; else cpus_per_task.",
    )
    gpus_per_task: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = Field(
        "auto",
        description="Ray GPUs that an embed task, `prepare` and `fit` request; a fraction lets tasks share "
        "one and its memory. auto: where the encoder can use a GPU and a node has one, 0.25 with 12 CPUs or "
        "more for each GPU, 0.5 with 4 or more, else 1; without such a node 0.",
    )
    samples_ahead: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Samples that an embed task reads and decodes ahead of the model, at least two batches; "
        "bounds memory: 150 kB each at 224 pixels.",
    )
    block_rows: int = Field(
        2048, ge=1, le=65536, description="Rows per block in the search for pairs; bounds memory."
    )
    pairs_per_sample: int = Field(
        32,
        ge=0,
        le=1_000_000,
        description="A cluster with more near pairs per row than this is crowded: its pairs are not "
        "stored but recomputed when samples are decided. Bounds the cost of thousands of near-equal images.",
    )
    attempts: int = Field(3, ge=1, le=100, description="Attempts of a unit before it fails.")
    lease_seconds: float = Field(
        60,
        ge=1,
        le=86_400,
        description="Seconds after which the unit of a worker that does not respond goes to another worker.",
    )
    fail_fast: bool = Field(
        False, description="Stop when the first shard fails, instead of after all shards were tried."
    )
    max_failed_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the input shards that may fail. If more fail, the run stops before clustering.",
    )

    @model_validator(mode="after")
    def _check(self) -> Work:
        gpus = self.gpus_per_task
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):  # Ray refuses it
            raise ValueError(f"gpus_per_task is {gpus:g}; allowed: auto, 0 to 1, or a whole number")
        return self


class Recipe(Section):
    """A run: its input, what is done with it, and its output."""

    sources: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(
        examples=[["/data/laion/shards", "s3://bucket/more/{00000..01279}.tar"]],
        description="Folders, tars, globs, brace patterns ({00000..01279}.tar) or fsspec URLs.",
    )
    output: str = Field(
        min_length=1,
        examples=["/data/laion/curated"],
        description="Folder or URL of the output; it belongs to one run.",
    )
    store: str | None = Field(
        None,
        min_length=1,
        examples=["/data/laion/store"],
        description="Folder or URL of embeddings, clusters and pairs; runs may share one. "
        "Default: the folder `store` in the output, or the store of the extended run.",
    )
    encoder: Encoder = Encoder()
    dedup: Dedup = Dedup()
    filters: Filters = Filters()
    clusters: Clusters = Clusters()
    audit: Audit = Audit()
    writing: Writing = Writing()
    extends: str | None = Field(
        None,
        min_length=1,
        examples=["20261123-104006-bd89"],
        description="The completed run whose corpus this run extends: its id, its output, or a flow run of "
        "it in Prefect. Fields not given and the centroids are taken from that run; the samples that it "
        "kept stay.",
    )
    reading: Reading = Reading()
    admission: Admission = Admission()
    work: Work = Work()

    @property
    def store_url(self) -> str:
        """The store's folder or URL."""
        return self.store or f"{self.output.rstrip('/')}/store"

    @property
    def recipe_digest(self) -> str:
        """16 hex digits over all fields that affect the output: not `output`, `store`, `audit` and `work`.

        Filters that are off are left out, so that adding a filter to made does not change digests;
        those of version 0.1 are always included. For the same reason `captions: auto` and `shards: true`
        are left out.
        """
        values = self.model_dump(mode="json", exclude={"store", "audit", "work", "output"})
        if values["encoder"]["captions"] == "auto":
            del values["encoder"]["captions"]
        if values["writing"]["shards"]:
            del values["writing"]["shards"]
        of_0_1 = ("min_side", "max_aspect", "min_words", "min_chars")
        values["filters"] = {k: v for k, v in values["filters"].items() if v is not None or k in of_0_1}
        return digest(values)
