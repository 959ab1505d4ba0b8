"""pbsdsh: runs a program on all nodes, the first ones (-c) or one (-n). Exits 0 when a task fails."""

from __future__ import annotations

import getopt
import os
import signal
import subprocess
import sys
import time
from types import FrameType

from tests.support.pbs import jobs, tasks
from tests.support.pbs.pbs_tmrsh import job_of_this_process, spawn
from tests.support.pbs.site import fail


def main(arguments: list[str]) -> int:
    """The command."""
    try:
        given, program = getopt.getopt(arguments, "c:n:svo")  # older ones have no -h
    except getopt.GetoptError as error:
        return fail("pbsdsh", f"invalid option -- '{error.opt}'", 1)
    if not program:
        return fail("Usage", "pbsdsh [-c copies][-s][-v][-o] -- program [args...]", 1)
    found = job_of_this_process("pbsdsh")
    if found is None:
        return 1
    site, job = found
    nodes = [slot.host for slot in job.slots for _ in range(slot.mpiprocs)]  # the lines of $PBS_NODEFILE
    options = dict(given)
    if "-n" in options:
        if int(options["-n"]) >= len(nodes):
            return fail("pbsdsh", "spawn failed on node", 0)
        nodes = [nodes[int(options["-n"])]]
    elif "-c" in options:
        nodes = [nodes[i % len(nodes)] for i in range(int(options["-c"]))]
    started: list[subprocess.Popen[bytes]] = []

    def bail_out(number: int, _: FrameType | None) -> None:
        jobs.kill([process.pid for process in started], number)
        os._exit(1)

    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, bail_out)
    for node in nodes:
        process = spawn("pbsdsh", site, job, node, program)
        if process is not None:
            started.append(process)
    for number, process in enumerate(started):
        while (ended := process.poll()) is None:
            time.sleep(0.05)
        if tasks.code(ended):
            print(f"pbsdsh: task 0x{number:08X} exit status {tasks.code(ended)}")
    sys.stdout.flush()
    return 0
