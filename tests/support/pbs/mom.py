"""The life of one job: wait for hosts, run the script, enforce the walltime, kill what is left.

Started by qsub as `python -m tests.support.pbs.mom JOB`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.support.pbs import jobs, tasks
from tests.support.pbs.jobs import Job, Slot
from tests.support.pbs.request import Chunk, chunks
from tests.support.pbs.site import Site, here

TICK = 0.1
WALLTIME_STATUS = -29  # JOB_EXEC_KILL_WALLTIME


def run(site: Site, job_id: str, terminal: int | None = None) -> int:
    """Runs the job; returns its Exit_status."""
    if not _wait_for_hosts(site, job_id):
        return _finish(site, job_id, 271)
    job = _known(site, job_id)
    lines = [slot.host for slot in job.slots for _ in range(slot.mpiprocs)]
    (jobs.folder(site, job_id) / "nodefile").write_text("".join(f"{line}\n" for line in lines))
    first = job.hosts[0]
    if terminal is not None:
        with open(terminal, "r+b", buffering=0, closefd=False) as screen:
            top = tasks.start(site, job, first, ["/bin/bash", "-i"], screen, screen)
    elif site.login_shell_dies:  # the shell reads the script's name from stdin
        top = tasks.start(site, job, first, ["/bin/bash", "-l"], subprocess.PIPE)
        assert top.stdin is not None
        top.stdin.write(f"{job.script}\n".encode())
        top.stdin.close()
    else:
        top = tasks.start(site, job, first, [job.script], subprocess.DEVNULL)
    status = _watch(site, job_id, top)
    _kill_all(site, job)
    return _finish(site, job_id, status)


def _known(site: Site, job_id: str) -> Job:
    job = jobs.load(site, job_id)
    assert job is not None, job_id
    return job


def _wait_for_hosts(site: Site, job_id: str) -> bool:
    """Places the job once it fits; False: it was deleted first."""
    while True:
        with site.locked():
            job = _known(site, job_id)
            if job.delete:
                return False
            used = [slot for other in jobs.every(site) if other.state in "RE" for slot in other.slots]
            slots = place(site, chunks(job.select), job.place, used)
            if slots is not None:
                job.state, job.slots, job.stime, job.comment = jobs.RUNNING, slots, time.time(), "Job run"
                jobs.save(site, job)
                return True
            never = place(site, chunks(job.select), job.place, []) is None
            why = "Can Never Run" if never else "Not Running"
            comment = f"{why}: Insufficient amount of resource: ncpus"
            if comment != job.comment:
                job.comment = comment
                jobs.save(site, job)
        time.sleep(TICK)


def place(site: Site, wanted: list[Chunk], how: str, used: list[Slot]) -> list[Slot] | None:
    """The chunks on hosts, None if they do not fit."""
    taken = list(used)
    slots: list[Slot] = []
    for chunk in wanted:
        for host in site.hosts:
            here_ = [slot for slot in taken if slot.host == host.name]
            free = host.ncpus - sum(s.ncpus for s in here_), host.ngpus - sum(s.ngpus for s in here_)
            scattered = "scatter" in how and any(slot.host == host.name for slot in slots)
            packed = "pack" in how and slots and slots[0].host != host.name
            other = "excl" in how and any(slot.host == host.name for slot in used)
            named = chunk.host not in (None, host.name)
            if (
                free[0] >= chunk.ncpus
                and free[1] >= chunk.ngpus
                and not (scattered or packed or other or named)
            ):
                slots.append(Slot(host.name, chunk.ncpus, chunk.ngpus, chunk.mpiprocs))
                taken.append(slots[-1])
                break
        else:
            return None
    return slots


def _watch(site: Site, job_id: str, top: subprocess.Popen[bytes]) -> int:
    """Waits for the top process; ends it on qdel and at the walltime. Returns Exit_status."""
    job = _known(site, job_id)
    first, started = job.hosts[0], time.monotonic()
    kill_at: float | None = None
    over = False
    while (ended := top.poll()) is None:
        now = time.monotonic()
        if kill_at is None:
            job = _known(site, job_id)  # an operator may have changed it
            over = job.walltime is not None and now - started > job.walltime
            deleted = job.delete
            if over:
                assert job.walltime is not None
                text = (
                    f"=>> PBS: job killed: walltime {now - started:.0f} exceeded limit {job.walltime:.0f}\n"
                )
                with (jobs.folder(site, job_id) / ("OU" if job.join == "oe" else "ER")).open("a") as error:
                    error.write(text)
            if over or deleted:
                # SIGTERM goes to the sessions on the first host; other hosts get SIGKILL when the job ends.
                jobs.kill(jobs.sessions(site, job_id, first), jobs.TERM)
                kill_at = now + (0 if deleted == "force" else site.kill_delay)
        elif now >= kill_at:
            jobs.kill(jobs.sessions(site, job_id, first), jobs.KILL)
        time.sleep(TICK)
    return WALLTIME_STATUS if over else tasks.code(ended)


def _kill_all(site: Site, job: Job) -> None:
    """What is left in the job's sessions, on all its hosts."""
    while jobs.processes(jobs.sessions(site, job.id)):
        jobs.kill(jobs.sessions(site, job.id), jobs.KILL)
        time.sleep(TICK)


def _finish(site: Site, job_id: str, status: int) -> int:
    with site.locked():
        job = _known(site, job_id)
        place_ = jobs.folder(site, job_id)
        for name, target in (("OU", job.output), ("ER", "" if job.join == "oe" else job.error)):
            with suppress(OSError):
                if target and not job.interactive:
                    Path(target).write_bytes((place_ / name).read_bytes())
        job.state, job.exit_status, job.etime = jobs.FINISHED, status, time.time()
        job.comment = "Job finished"
        jobs.save(site, job)
    return status


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # the job does not belong to qsub
    os.setsid()
    run(here(), sys.argv[1])
