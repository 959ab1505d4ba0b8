"""What is known of the job that this process belongs to: its share of each node, and when it ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.pbs import batch
from flows.pbs.resources import Share, shares
from made_core.errors import BatchError, UserError

WALLTIME = "MADE_WALLTIME"  # where qstat does not work on compute nodes
QSTAT_SECONDS = 20.0
MARGIN_MOST, MARGIN_SHARE = 300.0, 0.1  # a run ends itself so long before the job, or a tenth of its time


@dataclass(frozen=True)
class JobFacts:
    """A running job."""

    shares: Mapping[str, Share] = field(default_factory=dict)
    walltime: float | None = None  # seconds in all
    left: float | None = None  # seconds


def facts(environment: Mapping[str, str] = os.environ) -> JobFacts:
    """Facts of the job $PBS_JOBID from qstat; without qstat, what MADE_WALLTIME says.

    Raises:
        UserError: MADE_WALLTIME is no duration.
    """
    said = environment.get(WALLTIME)
    walltime = None if said is None else batch.seconds(said.strip())
    if said is not None and walltime is None:
        raise UserError(f"{WALLTIME}={said}: expected a duration as PBS writes it, such as 12:00:00")
    name = environment.get("PBS_JOBID")
    try:
        job = None if name is None else batch.query([name], QSTAT_SECONDS)[name]
    except BatchError:
        job = None
    if job is None or job.walltime is None:
        return JobFacts(shares("" if job is None else job.exec_vnode), walltime, walltime)
    return JobFacts(shares(job.exec_vnode), job.walltime, job.left)


def stop_at(facts: JobFacts, now: float) -> float | None:
    """When a run of this job ends itself, handing its units back: seconds since the epoch; None: never."""
    if facts.left is None or facts.walltime is None:
        return None
    return now + facts.left - min(MARGIN_MOST, MARGIN_SHARE * facts.walltime)
