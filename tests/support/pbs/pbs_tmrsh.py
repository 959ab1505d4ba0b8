"""pbs_tmrsh: runs a command on a host of the job and returns its exit status.

The command is not signalled when pbs_tmrsh is, and outlives it.
"""

from __future__ import annotations

import os
import subprocess

from tests.support.pbs import jobs, tasks
from tests.support.pbs.jobs import Job
from tests.support.pbs.site import Site, fail, here

USAGE = "pbs_tmrsh [-n][-l username] host [-n][-l username] command"
NOT_DONE = 255


def main(arguments: list[str]) -> int:
    """The command."""
    words = [word for word in arguments[:2] if word != "-n"] + arguments[2:]
    if len(words) < 2 or words[0].startswith("-"):
        return fail("usage", USAGE, NOT_DONE)
    host, command = words[0], words[1:]
    found = job_of_this_process("pbs_tmrsh")
    if found is None:
        return NOT_DONE
    site, job = found
    if host not in job.hosts:
        text = f'host "{host}" is not a node in job <{job.id}>'
        return fail("pbs_tmrsh", text, NOT_DONE)
    process = spawn("pbs_tmrsh", site, job, host, command)
    if process is None:
        return NOT_DONE
    return tasks.code(process.wait()) % 256


def job_of_this_process(command: str) -> tuple[Site, Job] | None:
    """The site and the job that this process belongs to; None, with a message, outside of a job."""
    if "PBS_ENVIRONMENT" not in os.environ:
        fail(command, "not executing under PBS", NOT_DONE)
        return None
    site = here()
    job = jobs.load(site, os.environ.get("PBS_JOBID", ""))
    if job is None or job.state != jobs.RUNNING:
        fail(command, "tm_init: TM_ESYSTEM", NOT_DONE)
        return None
    return site, job


def spawn(command: str, site: Site, job: Job, host: str, argv: list[str]) -> subprocess.Popen[bytes] | None:
    """Starts a task; None, with a message, if that fails.

    The first word is the program: one string with blanks is no program.
    """
    try:
        return tasks.start(site, job, host, argv, subprocess.DEVNULL)
    except OSError:
        fail(command, f'tm_poll(spawn): host "{host}" err TM_ESYSTEM 15010', NOT_DONE)
        return None
