"""The stand-ins for PBS have the manners that were measured on OpenPBS."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pbs.jobs import FINISHED, load
from tests.support.pbs.site import Host, Site

ONE, TWO = "127.0.0.1", "127.0.0.2"


class Desk:
    """A user's shell at a site."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.site = Site(folder / "pbs", (Host(ONE, 4, 1), Host(TWO, 4, 1)), kill_delay=1, **limits)
        self.env = {
            **os.environ,
            "PATH": f"{self.site.install()}:{os.environ['PATH']}",
            "HOME": str(self.home),
        }

    def __call__(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.work, env=self.env, input=stdin, capture_output=True, text=True, timeout=60
        )

    def submit(self, *options: str, script: str) -> str:
        done = self("qsub", *options, stdin=script)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str, seconds: float = 30) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while (known := load(self.site, job)) is None or known.state != FINISHED:
            assert time.monotonic() < end, known
            time.sleep(0.05)
        found: dict[str, Any] = json.loads(self("qstat", "-x", "-f", "-F", "json", job).stdout)["Jobs"][job]
        return found

    def printed(self, job: str) -> str:
        return (self.work / f"STDIN.o{job.partition('.')[0]}").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def until(true: Callable[[], object]) -> None:
    """Waits at most a minute."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_job_starts_at_home_with_a_bare_environment(desk: Desk) -> None:
    script = """#!/bin/bash
#PBS -l select=2:ncpus=2:mpiprocs=2 -l walltime=1:00
pwd
echo $PATH $NCPUS $SECRET $WORD
cat $PBS_NODEFILE
exit 3
"""
    desk.env |= {"SECRET": "s", "WORD": "w"}
    job = desk.submit("-j", "oe", "-l", "place=scatter", "-v", "WORD=one two,OTHER=x", script=script)
    known = desk.wait(job)
    assert desk.printed(job).splitlines() == [str(desk.home), "/bin:/usr/bin 2 one", ONE, ONE, TWO, TWO]
    assert (known["job_state"], known["Exit_status"]) == ("F", 3)
    assert known["exec_host"] == f"{ONE}/0*2+{TWO}/1*2"
    assert known["Resource_List"]["walltime"] == "00:01:00" and known["resources_used"]["walltime"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-l", "select=1:ncpus=1:gpus=1"], "Unknown resource"),
        (["-l", "nodes=2:ppn=4"], "Unknown resource"),
        (["-l", "select=3:ncpus=1"], "violates queue and/or server resource limits"),
        (["-q", "fast"], "Unknown queue"),
        (["-l", "walltime=soon"], "Resource_List.walltime"),
        (["-N", "my job"], "illegal -N value"),
        (["/nonexistent.sh"], "No such file or directory"),
        (["/"], "not a file"),
        (["-I"], "must be a terminal"),
    ],
)
def test_what_qsub_refuses(desk: Desk, options: list[str], words: str) -> None:
    done = desk("qsub", *options, stdin="true\n")
    assert done.returncode != 0 and words in done.stderr and not done.stdout


def test_a_job_that_no_host_can_run_waits(desk: Desk) -> None:
    job = desk.submit("-l", "select=1:ncpus=8", script="true\n")
    until(lambda: "Can Never Run" in desk("qstat", "-f", job).stdout)
    assert desk("qdel", job).returncode == 0
    assert desk.wait(job)["job_state"] == "F"
    assert "Job has finished" in desk("qstat", job).stderr and "Job has finished" in desk("qdel", job).stderr
    assert "Unknown Job Id" in desk("qstat", "99").stderr


def test_jobs_share_hosts_and_wait_for_them(desk: Desk) -> None:
    first = desk.submit("-l", "select=1:ncpus=4", script=f"until [ -e {desk.work}/go ]; do sleep .05; done\n")
    until(lambda: load(desk.site, first).state == "R")  # type: ignore[union-attr]
    other = desk.submit("-l", "select=2:ncpus=1", "-l", "place=scatter", script="cat $PBS_NODEFILE\n")
    third = desk.submit("-l", "select=1:ncpus=1", "-j", "oe", script="cat $PBS_NODEFILE\n")
    desk.wait(third)
    assert desk.printed(third).split() == [TWO] and load(desk.site, other).state == "Q"  # type: ignore[union-attr]
    (desk.work / "go").touch()
    desk.wait(other)


def test_pbs_tmrsh_returns_the_status_and_refuses_one_string_with_blanks(desk: Desk) -> None:
    script = f"""#!/bin/bash
PATH=/bin:/usr/bin:{desk.site.folder}/bin
captured=$(pbs_tmrsh {TWO} sh -c 'echo output; exit 5'); echo "status $? captured [$captured]"
pbs_tmrsh {TWO} 'echo one string'; echo "status $?"
pbs_tmrsh elsewhere true; echo "status $?"
pbsdsh -- false; echo "status $?"
pbsdsh -n 1 -- pwd > /dev/null
"""
    job = desk.submit("-j", "oe", "-l", "select=2:ncpus=1", "-l", "place=scatter", script=script)
    desk.wait(job)
    lines = desk.printed(job).splitlines()
    assert lines[:2] == ["output", "status 5 captured []"]
    assert "TM_ESYSTEM" in lines[2] and lines[3] == "status 255"
    assert "is not a node in job" in lines[4] and lines[5] == "status 255"
    assert [line for line in lines[6:] if "exit status 1" in line] and "status 0" in lines[6:]
    assert lines[-1] == str(desk.home)  # though it was redirected
    assert "not executing under PBS" in desk("pbs_tmrsh", ONE, "true").stderr


@pytest.mark.parametrize("login_shell_dies", [False, True])
def test_qdel_sends_sigterm_then_kills_everything(tmp_path: Path, login_shell_dies: bool) -> None:
    desk = Desk(tmp_path, login_shell_dies=login_shell_dies)
    script = f"""#!/bin/bash
PATH=/bin:/usr/bin:{desk.site.folder}/bin
trap 'echo trapped >> {desk.work}/mark' TERM
pbs_tmrsh {TWO} sh -c 'trap "" TERM; sleep 1000' &
sleep 0.5; echo started > {desk.work}/mark
while :; do wait; sleep 0.1; done
"""
    job = desk.submit("-l", "select=2:ncpus=1", "-l", "place=scatter", script=script)
    until((desk.work / "mark").exists)
    assert desk("qdel", job).returncode == 0
    known = desk.wait(job)
    if login_shell_dies:
        assert known["Exit_status"] == 256 + 15
    else:
        assert known["Exit_status"] == 256 + 9 and "trapped" in (desk.work / "mark").read_text()
    assert not [p for p in Path("/proc").glob("[0-9]*/environ") if _of(p, job, desk.site.folder)]


def _of(environ: Path, job: str, folder: Path) -> bool:
    try:
        return f"PBS_NODEFILE={folder}/jobs/{job}/nodefile".encode() in environ.read_bytes()
    except OSError:
        return False


def test_walltime(desk: Desk) -> None:
    job = desk.submit("-l", "select=1:ncpus=1", "-l", "walltime=1", script="sleep 1000\n")
    known = desk.wait(job)
    assert known["Exit_status"] == -29
    errors = (desk.work / f"STDIN.e{job.partition('.')[0]}").read_text()
    assert "=>> PBS: job killed: walltime" in errors and "exceeded limit 1" in errors


def test_interactive(desk: Desk) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        ["qsub", "-I", "-l", "select=1:ncpus=2"], cwd=desk.work, env=desk.env,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    ):  # fmt: skip
        os.close(slave)
        os.write(master, b"echo in $PBS_ENVIRONMENT on $(cat $PBS_NODEFILE)\nexit\n")
        text = b""
        try:
            while chunk := os.read(master, 1000):
                text += chunk
        except OSError:  # the terminal is closed
            pass
    os.close(master)
    assert f"in PBS_INTERACTIVE on {ONE}".encode() in text and b"completed" in text
