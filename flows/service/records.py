"""What the front door answers, and `made trigger` reads."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

COMPLETED, CANCELLED = "COMPLETED", "CANCELLED"
FINAL = (COMPLETED, CANCELLED, "FAILED", "CRASHED")  # Prefect's types of states that a run ends in


class StageProgress(BaseModel):
    """The progress of a stage."""

    stage: str
    units: int = Field(description="Units of the stage, such as input shards.")
    done: int
    failed: int
    rate: float | None = Field(description="Samples per second.")
    eta: float | None = Field(description="Seconds until all units have ended; null: not known.")


class TriggeredRun(BaseModel):
    """A run that was started by the front door."""

    id: UUID = Field(description="Prefect's id of the run.")
    name: str
    type: str = Field(description="Type of the state, such as RUNNING, COMPLETED or FAILED.")
    state: str = Field(description="Name of the state, such as Running or CompletedWithFailures.")
    message: str = Field(description="What the state says, such as the error; may be empty.")
    output: str
    url: str = Field(description="Page of the run in Prefect's UI.")
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    stages: list[StageProgress] = Field(default=[], description="Progress of a live run, stage by stage.")

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.type in FINAL

    @property
    def clean(self) -> bool:
        """Whether the run completed without failed shards."""
        return self.type == COMPLETED and self.state == "Completed"


class Refusal(BaseModel):
    """An error: one sentence that names the field, its value, what is allowed and what to do."""

    detail: str
