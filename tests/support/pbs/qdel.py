"""qdel: SIGTERM now, SIGKILL after the kill delay."""

from __future__ import annotations

from tests.support.pbs import jobs
from tests.support.pbs.site import fail, here


def main(arguments: list[str]) -> int:
    """The command."""
    site, ids, force, result = here(), [], False, 0
    words = iter(arguments)
    for word in words:
        if word.startswith("-W"):
            force = "force" in (word[2:] or next(words, ""))
        elif word.startswith("-"):
            return fail("qdel", f"invalid option -- '{word[1:]}'", 2)
        else:
            ids.append(word)
    if not ids:
        return fail("usage", "qdel [-W force|suppress_email=X] [-x] job_identifier...", 2)
    for text in ids:
        job_id = jobs.full_id(text)
        with site.locked():
            job = jobs.load(site, job_id)
            if job is None or (job.state == jobs.FINISHED and not site.history):
                result = fail("qdel", f"Unknown Job Id {job_id}", jobs.UNKNOWN_JOB)
            elif job.state == jobs.FINISHED:
                result = fail("qdel", f"Job has finished {job_id}", jobs.HISTORY_JOB)
            else:
                job.delete = "force" if force else "term"
                jobs.save(site, job)
    return result
