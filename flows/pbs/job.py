"""What PBS knows of the job that this process belongs to: its share of each node, and when it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.pbs.resources import Share, shares
from made_core.errors import UserError

WALLTIME = "MADE_WALLTIME"  # where qstat does not work on compute nodes
QSTAT_SECONDS = 20
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
    walltime = None if said is None else seconds(said)
    job = environment.get("PBS_JOBID")
    known = None if job is None else _qstat(job)
    if known is None:
        return JobFacts({}, walltime, walltime)
    walltime = walltime if known.walltime is None else seconds(known.walltime)
    # resources_used lags behind by minutes; stime is when the job started.
    spent = max(seconds(known.used), _since(known.started))
    return JobFacts(shares(known.exec_vnode), walltime, None if walltime is None else walltime - spent)


def stop_at(facts: JobFacts, now: float) -> float | None:
    """When a run of this job ends itself, handing its units back: seconds since the epoch; None: never."""
    if facts.left is None or facts.walltime is None:
        return None
    return now + facts.left - min(MARGIN_MOST, MARGIN_SHARE * facts.walltime)


def seconds(text: str) -> float:
    """Seconds of [[HH:]MM:]SS. Raises UserError."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", str(text).strip()):
        raise UserError(f"{text!r}: expected a duration as PBS writes it, such as 12:00:00")
    total = 0.0
    for part in str(text).strip().split(":"):
        total = 60 * total + float(part)
    return total


def _since(text: str) -> float:
    """Seconds since a time as PBS prints it (`Wed Nov 25 21:46:03 2026`, local time); 0 if there is none."""
    try:
        return max(0.0, time.time() - time.mktime(time.strptime(text)))
    except ValueError:
        return 0.0


@dataclass(frozen=True)
class _Known:
    """What qstat prints of a job."""

    exec_vnode: str
    started: str
    used: str
    walltime: str | None


def _qstat(job: str) -> _Known | None:
    try:
        done = subprocess.run(
            ["qstat", "-f", "-F", "json", job], capture_output=True, text=True, timeout=QSTAT_SECONDS
        )
        found = next(iter(json.loads(done.stdout)["Jobs"].values()))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, StopIteration):
        return None
    return _Known(
        exec_vnode=found.get("exec_vnode", ""),
        started=found.get("stime", ""),
        used=found.get("resources_used", {}).get("walltime", "0"),
        walltime=found.get("Resource_List", {}).get("walltime"),
    )
