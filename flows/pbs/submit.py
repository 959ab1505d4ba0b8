"""Submitting a job for a flow run: its folder, its script and its environment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from flows.pbs import batch
from flows.pbs.batch import Cause, NoAnswer
from flows.pbs.pool import PbsJob
from flows.pbs.script import SCRIPTS
from made_core.errors import BatchError, UserError
from made_core.settings import settings

OF_A_CLUSTER = ("MADE_CLUSTER", "MADE_RAY_ADDRESS", "MADE_STOP_AT")
START_SECONDS = 30.0  # from the start of a job, of which PBS counts the walltime, to that of its script
KEPT_DAYS = 90  # a run's folder after the last change in it: longer than a job waits and runs
LOG_LINES = 8  # of a failed job, shown in the state's message


def submit(flow_run_id: UUID, configuration: PbsJob) -> str:
    """Writes the job's script and its environment, submits it and returns its id.

    The environment has passwords: the job removes it when it has read it, `settled` where the job never did.

    Raises:
        BatchError: qsub refuses the job. NoAnswer: it may have accepted it, and the environment stays for it.
        UserError: the folder's path has a blank.
    """
    place = folder(flow_run_id)
    if any(character.isspace() for character in str(place)):
        raise UserError(f"MADE_PBS_FOLDER {settings().pbs_path}: PBS takes no blanks in paths")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_old(place.parent)
    environment = _environment(flow_run_id)
    environment.touch(mode=0o600)  # it holds passwords, which qsub -v would show to everybody
    environment.write_text(configuration.exports(_made()), encoding="utf-8")
    script = place / "job.sh"
    lines = list(_lines(configuration, place, flow_run_id))
    script.write_text(configuration.script(place, lines), encoding="utf-8")
    script.chmod(0o700)
    try:
        return batch.submit(script, record(flow_run_id))
    except NoAnswer:
        raise
    except BatchError:
        environment.unlink()
        raise


def settled(flow_run_id: UUID, job: str | None) -> None:
    """Removes the environment of a job that has ended; one of a later job stays. None: there was no job."""
    latest = record(flow_run_id)
    with suppress(FileNotFoundError):
        if job is None or latest.read_text(encoding="utf-8").strip() == job:
            _environment(flow_run_id).unlink()


def _environment(flow_run_id: UUID) -> Path:
    return folder(flow_run_id) / "environment"


def _remove_old(runs: Path) -> None:
    """Removes the folders of runs in which nothing has changed for `KEPT_DAYS`."""
    since = time.time() - 86400 * KEPT_DAYS
    for place in runs.iterdir():
        with suppress(ValueError, OSError):  # not a run's, or removed by another worker
            UUID(place.name)
            if place.stat().st_mtime < since and all(f.stat().st_mtime < since for f in place.iterdir()):
                shutil.rmtree(place)


def record(flow_run_id: UUID) -> Path:
    """The file in which qsub leaves the id of the run's latest job."""
    return folder(flow_run_id) / "job"


def _lines(configuration: PbsJob, place: Path, flow_run_id: UUID) -> Iterator[str]:
    """What the job does: it starts the cluster and executes the flow run in it."""
    yield f"made_until=$(($(date +%s) + {batch.seconds(configuration.walltime):.0f}))"
    yield f"made_place={shlex.quote(str(place))}"
    yield 'exec > "$made_place/$PBS_JOBID.log" 2>&1'
    yield 'source "$made_place/environment" && rm "$made_place/environment" || exit 1'
    yield f"export MADE_PYTHON={shlex.quote(sys.executable)} MADE_WALLTIME={configuration.walltime}"
    yield f"source {shlex.quote(str(SCRIPTS / 'start_ray_cluster.sh'))} || exit 1"
    options = f"--until $made_until --resumes {configuration.resumes}"
    yield from (
        f"made_exec='exec' made_python -m flows.pbs.execute {flow_run_id} {options} &",
        "made_executor=$!",
        # When PBS ended the job, for `cause`. By bash alone: often there are only milliseconds.
        "made_note() { printf '%(%s)T %s' -1 $made_until > \"$made_place/$PBS_JOBID.terminated\"; }",
        "trap 'made_note; kill -TERM $made_executor 2>/dev/null' TERM",
        "wait $made_executor; made_code=$?",
        # The trap ends `wait`.
        "while kill -0 $made_executor 2>/dev/null; do wait $made_executor; made_code=$?; done",
        "stop_ray_cluster",
        "exit $made_code",
    )


def folder(flow_run_id: UUID) -> Path:
    """The folder of a flow run's job scripts and logs, which all nodes must reach."""
    return settings().pbs_path / "runs" / str(flow_run_id)


def log(flow_run_id: UUID, job: str) -> Path:
    """The log of a job."""
    return folder(flow_run_id) / f"{job}.log"


def cause(flow_run_id: UUID, job: str) -> Cause:
    """Why a job ended of which PBS keeps no record, from what its script wrote when PBS ended it."""
    try:
        text = (folder(flow_run_id) / f"{job}.terminated").read_text(encoding="utf-8")
        at, until = map(float, text.split())
    except (FileNotFoundError, ValueError):
        return Cause.UNKNOWN
    return Cause.WALLTIME if at >= until - START_SECONDS else Cause.DELETED


def last_lines(path: Path) -> str:
    """The last lines of a job's log; empty if it wrote none."""
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return f"the end of {path}:\n" + "\n".join(lines) if lines else f"{path} is empty"


def _made() -> dict[str, str]:
    """The worker's own settings of made, which the job takes over; those of a cluster are the job's own."""
    return {n: v for n, v in os.environ.items() if n.startswith("MADE_") and n not in OF_A_CLUSTER}
