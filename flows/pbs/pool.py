"""The work pool of type `made-pbs`: what a run may ask of PBS, and the job script made from it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from prefect.workers.base import BaseJobConfiguration
from pydantic import AfterValidator, BaseModel, Field

from flows.pbs import options

POOL = "made-pbs"  # its type, and the name of the pool if none is given
_CHUNK = r"\d+(:\w+=[\w./-]+)*"


Directive = Annotated[str, Field(pattern=rf"^{options.DIRECTIVE}$"), AfterValidator(options.further)]


class JobVariables(BaseModel):
    """The variables of the pool: shown in Prefect's forms, with these bounds."""

    select: str = Field(
        "1:ncpus=4",
        pattern=rf"^{_CHUNK}(\+{_CHUNK})*$",
        description="Nodes and what each gives, as in qsub -l select=...: 2:ncpus=24:ngpus=4.",
        json_schema_extra={"position": 0},
    )
    walltime: str = Field(
        "04:00:00",
        pattern=r"^\d{1,4}:[0-5]\d:[0-5]\d$",
        description="Time limit of a job, HH:MM:SS. A run that needs longer continues in the next job.",
        json_schema_extra={"position": 1},
    )
    queue: str = Field(
        "",
        pattern=rf"^({options.QUEUE})?$",
        description="Queue; empty: the server's default.",
        json_schema_extra={"position": 2},
    )
    account: str = Field(
        "",
        pattern=rf"^({options.ACCOUNT})?$",
        description="Account that is charged (qsub -A); empty: none is named.",
        json_schema_extra={"position": 3},
    )
    place: str = Field(
        "scatter",
        pattern=rf"^{options.PLACE}$",
        description="How the nodes are chosen, as in qsub -l place=...: scatter, or scatter:excl.",
        json_schema_extra={"position": 4},
    )
    directives: list[Directive] = Field(
        default_factory=list,
        max_length=20,
        description="Further options of qsub, one an entry, such as '-P project' or '-l filesystems=home'. "
        f"Allowed are {options.ALLOWED}.",
        json_schema_extra={"position": 5},
    )
    resumes: int = Field(
        20,
        ge=0,
        le=1000,
        description="How many further jobs may continue a run that the walltime cut. "
        "A job in which no unit of work was done is the last.",
        json_schema_extra={"position": 6},
    )


class PbsJob(JobVariables, BaseJobConfiguration):
    """The configuration of one job: the pool's variables, and what Prefect adds for the flow run."""

    def script(self, folder: Path, lines: list[str]) -> str:
        """The text of a job script that logs to `folder` and runs `lines` in bash."""
        wanted = [
            f"-N {self.job_name}", f"-l select={self.select}", f"-l place={self.place}",
            f"-l walltime={self.walltime}", *([f"-q {self.queue}"] if self.queue else []),
            *([f"-A {self.account}"] if self.account else []), *self.directives,
            "-r n", "-j oe", f"-o {folder}/pbs.log",
        ]  # fmt: skip
        return "\n".join(["#!/bin/bash", *(f"#PBS {option}" for option in wanted), "", *lines, ""])

    @property
    def job_name(self) -> str:
        """The job's name, which `qstat` shows: at most 15 characters, for older versions of PBS."""
        return job_name(self.env.get("PREFECT__FLOW_RUN_ID") or "run")

    def exports(self, settings: dict[str, str]) -> str:
        """Shell assignments of the flow run's environment, for a file that only the user can read."""
        return "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in sorted(
            {**self.env, **settings}.items()))  # fmt: skip


def job_name(flow_run_id: str) -> str:
    """The name of the jobs of a flow run."""
    return f"made-{flow_run_id[-8:]}"


def base_job_template() -> dict[str, Any]:
    """The pool's template. `command` and `env` of a request have no effect: it does not name them."""
    return {
        "job_configuration": {name: f"{{{{ {name} }}}}" for name in JobVariables.model_fields},
        "variables": JobVariables.model_json_schema(),
    }
