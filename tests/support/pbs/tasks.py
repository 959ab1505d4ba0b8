"""Starting a process on a host, as a mom does: a session of its own, a bare environment, in $HOME."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import IO

from tests.support.pbs.jobs import Job, add_task, folder
from tests.support.pbs.site import Site

PATH = "/bin:/usr/bin"  # pbs_mom's own


def environment(site: Site, job: Job, host: str, task: int) -> dict[str, str]:
    """The environment of a task: what the job gave with -v or -V, and what PBS sets."""
    user = pwd.getpwuid(os.getuid())
    ncpus = next((str(slot.ncpus) for slot in job.slots if slot.host == host), "1")
    return {
        **job.variables,
        **site.variables,
        "PATH": job.variables.get("PATH", PATH),
        "HOME": job.variables["PBS_O_HOME"],
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh",
        "NCPUS": ncpus,
        "OMP_NUM_THREADS": ncpus,
        "PBS_ENVIRONMENT": "PBS_INTERACTIVE" if job.interactive else "PBS_BATCH",
        "PBS_JOBID": job.id,
        "PBS_JOBNAME": job.name,
        "PBS_QUEUE": job.queue,
        "PBS_NODEFILE": str(folder(site, job.id) / "nodefile"),
        "PBS_NODENUM": str(job.hosts.index(host)),
        "PBS_TASKNUM": str(task),
        "PBS_MOMPORT": "15003",
        "PBS_CONF_FILE": str(site.folder / "pbs.conf"),
        "PBS_JOBDIR": job.variables["PBS_O_HOME"],
        "TMPDIR": "/tmp",
    }


def start(
    site: Site, job: Job, host: str, command: list[str], stdin: int | IO[bytes], out: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command on a host of the job; its output goes to the job's, unless `out` is a terminal.

    Raises:
        OSError: there is no such program, or it may not be run.
    """
    place, enter = folder(site, job.id), site.host(host).enter
    home = job.variables["PBS_O_HOME"]
    if enter:  # nsenter changes to the root
        enter = (*enter, "env", f"--chdir={home}")
    with (
        (place / "OU").open("ab") as output,
        (place / ("OU" if job.join == "oe" else "ER")).open("ab") as error,
    ):
        process = subprocess.Popen(
            [*enter, *command],
            env=environment(site, job, host, 1 + len(list((place / "tasks").glob("*")))),
            cwd=Path(home),
            stdin=stdin,
            stdout=out or output,
            stderr=out or error,
            start_new_session=True,
        )
    add_task(site, job.id, host, process.pid)
    return process


def code(status: int) -> int:
    """Exit_status of a process: 256 plus the signal that ended it."""
    return status if status >= 0 else 256 - status
