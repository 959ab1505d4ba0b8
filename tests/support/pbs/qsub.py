"""qsub: checks a job, copies its script, starts it."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support.pbs import jobs, mom
from tests.support.pbs.jobs import Job
from tests.support.pbs.request import LIMITS, UNKNOWN_QUEUE, USAGE_ERROR, Refused, Request, complete, parse
from tests.support.pbs.site import ROOT, SERVER, Site, fail, here

FORWARDED = ("HOME", "LANG", "LOGNAME", "PATH", "MAIL", "SHELL", "TZ")  # as PBS_O_<name>


def main(arguments: list[str]) -> int:
    """The command."""
    site = here()
    try:
        request = parse(arguments)
        text = _script(request)
        complete(request, text)
        _check(site, request)
    except Refused as refused:
        return fail("qsub", str(refused), refused.code)
    with site.locked():
        number = len(list((site.folder / "jobs").iterdir())) + 1
        job = _job(site, request, f"{number}.{SERVER}")
        place = jobs.folder(site, job.id)
        place.mkdir()
        if not request.interactive:
            job.script = str(place / f"{job.id}.SC")
            Path(job.script).write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
            Path(job.script).chmod(0o700)
        jobs.save(site, job)
    if request.interactive:
        return _interactive(site, job)
    subprocess.run(
        [sys.executable, "-S", "-m", "tests.support.pbs.mom", job.id],
        cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if "z" not in request.options:
        print(job.id)
    if "block=true" in request.last("W"):
        while (known := jobs.load(site, job.id)) is None or known.state != jobs.FINISHED:
            time.sleep(0.2)
        return (known.exit_status or 0) % 256
    return 0


def _script(request: Request) -> str:
    if request.interactive:
        if not (os.isatty(0) and os.isatty(1)):
            raise Refused("standard input and output must be a terminal for interactive job submission", 1)
        return ""
    if request.script is None:
        return sys.stdin.read()
    if Path(request.script).exists() and not Path(request.script).is_file():
        raise Refused("script not a file", USAGE_ERROR)
    try:
        return Path(request.script).read_text()
    except OSError as error:
        raise Refused(f"script file:: {error.strerror}", USAGE_ERROR) from None


def _check(site: Site, request: Request) -> None:
    queue = request.last("q", site.queues[0])
    if queue.partition("@")[0] not in site.queues:
        raise Refused("Unknown queue", UNKNOWN_QUEUE)
    if len(request.chunks) > len(site.hosts):  # resources_max.nodect of the queues
        raise Refused("Job violates queue and/or server resource limits", LIMITS)


def _job(site: Site, request: Request, job_id: str) -> Job:
    number, folder = job_id.partition(".")[0], Path.cwd()
    name = request.last("N") or (Path(request.script).name if request.script else "STDIN")
    variables = {f"PBS_O_{n}": os.environ[n] for n in FORWARDED if n in os.environ}
    variables |= {
        "PBS_O_WORKDIR": str(folder), "PBS_O_HOST": socket.gethostname(), "PBS_O_SYSTEM": "Linux",
        "PBS_O_QUEUE": request.last("q", site.queues[0]),
    }  # fmt: skip
    if "V" in request.options:
        variables |= {n: v for n, v in os.environ.items() if not n.startswith("PBS_")}
    for item in filter(None, request.last("v").split(",")):
        named, equals, value = item.partition("=")
        # A blank ends the value: pass names of files.
        variables[named.strip()] = value.split(" ")[0] if equals else os.environ.get(named, "")

    def path(letter: str) -> str:
        given = request.last(letter)
        if given and not (folder / given).is_dir():
            return str(folder / given)
        return str(folder / given / f"{name}.{letter}{number}")

    return Job(
        id=job_id,
        name=name,
        owner=f"{getpass.getuser()}@{socket.gethostname()}",
        queue=request.last("q", site.queues[0]),
        script="",
        output=path("o"),
        error=path("e"),
        join=request.last("j", "n").replace("eo", "oe"),
        select=request.resources.get("select", f"1:ncpus={request.resources.get('ncpus', '1')}"),
        place=request.place,
        walltime=request.walltime,
        variables=variables,
        qtime=time.time(),
        interactive=request.interactive,
    )


def _interactive(site: Site, job: Job) -> int:
    print(f"qsub: waiting for job {job.id} to start", flush=True)
    print(f"qsub: job {job.id} ready\n", flush=True)
    mom.run(site, job.id, terminal=0)
    print(f"\nqsub: job {job.id} completed", flush=True)
    return 0
