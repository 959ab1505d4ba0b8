"""qselect: the ids of the jobs that have not ended, of all or with -N of those of a name."""

from __future__ import annotations

import getopt

from tests.support.pbs import jobs
from tests.support.pbs.site import fail, here


def main(arguments: list[str]) -> int:
    """The command."""
    site = here()
    try:
        given, rest = getopt.getopt(arguments, "N:")
    except getopt.GetoptError as error:
        return fail("qselect", f"invalid option -- '{error.opt}'", 2)
    if rest:
        return fail("usage", "qselect [-N jobname]", 2)
    name = dict(given).get("-N")
    for job in jobs.every(site):
        if job.state != jobs.FINISHED and name in (None, job.name):
            print(job.id)
    return 0
