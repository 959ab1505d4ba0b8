"""The recipe's section `dedup`: which samples are duplicates, and which of them stays."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from made_core.recipe_section import Section

# Far above the rounding of float64: where 1 - eps is 1, exact copies are not within eps of each other, and
# near 1e-15 equal rows may or may not be.
LEAST_EPS = 1e-9


class Dedup(Section):
    """Which samples are removed as duplicates."""

    rule: Literal["cover", "reference"] = Field(
        "cover",
        description="cover: a sample is removed if an earlier KEPT sample is within eps. reference: "
        "SemDeDup's rule, a sample is removed if any earlier sample of its cluster is within eps, "
        "even a removed one.",
    )
    eps: float | None = Field(
        None,
        ge=LEAST_EPS,
        lt=1,
        examples=[0.05],
        description="Two samples are duplicates if their cosine is above 1 - eps. Default: the encoder's.",
    )
    eps_max: float | None = Field(
        None,
        ge=LEAST_EPS,
        lt=1,
        examples=[0.1],
        description="Pairs are stored down to the cosine 1 - eps_max, so a new eps up to eps_max needs no "
        "new search. Default: twice the encoder's default eps, or eps if that is larger.",
    )
    keep: Literal["auto", "largest", "hard", "easy", "random", "clip_score", "earliest", "column"] = Field(
        "auto",
        description="Order of the samples; of duplicates the first is kept. largest: most original pixels "
        "first (original_width x original_height of the json, else those of the image), then nearest to "
        "the centroid; hard: farthest from the centroid first; easy: nearest to the centroid first; "
        "random: by a seeded hash; clip_score: highest CLIP score first (the run's where captions are "
        "embedded, else that of the json); earliest: by shard "
        "name, then position in the shard; column: by keep_column. auto: hard with rule reference "
        "(SemDeDup's), else largest.",
    )
    keep_column: str | None = Field(
        None,
        examples=["original_width"],
        description="Numeric field of the sample's json. Required for keep: column.",
    )
    keep_prefer: Literal["max", "min"] = Field(
        "max",
        description="Whether the highest or the lowest value of keep_column comes first; samples without "
        "a value come last.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of keep: random.")
    placeholder_captions: int | None = Field(
        10,
        ge=2,
        le=1_000_000_000,
        description="An image whose bytes appear under at least this many different captions is a "
        "placeholder (an error image, a logo). null: off.",
    )
    placeholders: Literal["keep_one", "drop"] = Field(
        "keep_one",
        description="keep_one: placeholders are treated like other copies, so one may be kept. drop: all "
        "are dropped.",
    )

    @property
    def keep_rule(self) -> str:
        """`keep`, with auto resolved."""
        if self.keep != "auto":
            return self.keep
        return "hard" if self.rule == "reference" else "largest"

    @model_validator(mode="after")
    def _check(self) -> Dedup:
        if (self.keep == "column") != (self.keep_column is not None):
            raise ValueError(
                f"keep is {self.keep}, keep_column is {self.keep_column or 'not set'}; "
                "keep: column needs keep_column, other values do not allow it"
            )
        if self.eps is not None and self.eps_max is not None and self.eps > self.eps_max:
            raise ValueError(f"eps is {self.eps}, allowed: up to eps_max, {self.eps_max}")
        return self
