"""qstat: the jobs, as a table or (-f -F json) as OpenPBS's JSON; -x shows finished ones too."""

from __future__ import annotations

import getopt
import json
import time
from datetime import timedelta
from typing import Any

from tests.support.pbs import jobs
from tests.support.pbs.jobs import Job
from tests.support.pbs.request import chunks
from tests.support.pbs.site import SERVER, fail, here


def main(arguments: list[str]) -> int:
    """The command."""
    site = here()
    try:
        given, ids = getopt.gnu_getopt(arguments, "afF:HnrstTuwx1")
    except getopt.GetoptError as error:
        return fail("qstat", f"invalid option -- '{error.opt}'", 2)
    options = dict(given)
    history = "-x" in options or "-H" in options
    result, shown = 0, []
    if history and not site.history:
        for text in ids or ["@" + SERVER]:
            hint = "PBS is not configured to maintain job history"
            result = fail("qstat", f"{hint} {text}", jobs.NO_HISTORY)
        return result
    if not ids:
        shown = [job for job in jobs.every(site) if history or job.state != jobs.FINISHED]
    for text in ids:
        job = jobs.load(site, jobs.full_id(text))
        if job is None or (job.state == jobs.FINISHED and not site.history):
            result = fail("qstat", f"Unknown Job Id {jobs.full_id(text)}", jobs.UNKNOWN_JOB)
        elif job.state == jobs.FINISHED and not history:
            hint = "Job has finished, use -x or -H to obtain historical job information"
            result = fail("qstat", f"{job.id} {hint}", jobs.HISTORY_JOB)
        else:
            shown.append(job)
    if "-f" in options and options.get("-F") == "json":
        head = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
        if shown:
            print(json.dumps({**head, "Jobs": {job.id: _full(job) for job in shown}}, indent=4))
    elif "-f" in options:
        for job in shown:
            print(f"Job Id: {job.id}")
            print("\n".join(_wrapped(line) for line in _lines(_full(job))) + "\n")
    elif shown:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
        for job in shown:
            user = job.owner.partition("@")[0]
            print(f"{job.id:16.16}  {job.name:16.16} {user:16.16}  {_used(job):>8} {job.state} {job.queue}")
    return result


def _lines(values: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in values.items():
        if name == "Variable_List":
            lines.append(f"{name} = {','.join(f'{n}={v}' for n, v in value.items())}")
        elif isinstance(value, dict):
            lines += [f"{name}.{inner} = {v}" for inner, v in value.items()]
        else:
            lines.append(f"{name} = {value}")
    return lines


def _wrapped(line: str) -> str:
    """Long lines go on after a tab."""
    parts = [line[i : i + 74] for i in range(0, len(line), 74)]
    return "    " + "\n\t".join(parts)


def _used(job: Job) -> str:
    if job.stime is None:
        return "00:00:00"
    return _clock((job.etime or time.time()) - job.stime)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).rjust(8, "0")


def _full(job: Job) -> dict[str, Any]:
    wanted = chunks(job.select)
    listed: dict[str, Any] = {
        "ncpus": sum(c.ncpus for c in wanted), "ngpus": sum(c.ngpus for c in wanted),
        "nodect": len(wanted), "place": job.place, "select": job.select,
    }  # fmt: skip
    if job.walltime is not None:
        listed["walltime"] = _clock(job.walltime)
    host = job.variables["PBS_O_HOST"]
    values: dict[str, Any] = {
        "Job_Name": job.name, "Job_Owner": job.owner, "job_state": job.state, "queue": job.queue,
        "server": SERVER, "ctime": time.ctime(job.qtime), "Error_Path": f"{host}:{job.error}",
        "Join_Path": job.join, "Output_Path": f"{host}:{job.output}", "Rerunable": "True",
        "Resource_List": listed, "Variable_List": job.variables, "comment": job.comment,
        "qtime": time.ctime(job.qtime), "etime": time.ctime(job.qtime), "run_count": int(bool(job.slots)),
    }  # fmt: skip
    if job.stime is not None:
        values["stime"] = time.ctime(job.stime)
        values["exec_host"] = "+".join(f"{s.host}/{i}*{s.ncpus}" for i, s in enumerate(job.slots))
        values["exec_vnode"] = "+".join(f"({s.host}:ncpus={s.ncpus}:ngpus={s.ngpus})" for s in job.slots)
        values["resources_used"] = {"cpupct": 0, "cput": "00:00:00", "walltime": _used(job)}
    if job.state == jobs.FINISHED:
        values["substate"] = 91 if job.delete else 92 if job.exit_status == 0 else 93
    if job.exit_status is not None:
        values["Exit_status"] = job.exit_status
    return values
