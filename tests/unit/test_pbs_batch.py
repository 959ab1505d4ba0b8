"""What PBS's commands say is understood: which phase a job is in, and why it ended."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import FlowRun
from pydantic import ValidationError

from flows.pbs import batch, outcome, pool, submit
from flows.pbs.batch import Cause, Job, NoAnswer, Phase
from flows.pbs.pool import PbsJob
from flows.pbs.script import SCRIPTS
from made_core.errors import BatchError
from made_core.settings import settings

pytestmark = pytest.mark.unit


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Puts a command on the PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def shown(**attributes: Any) -> str:
    """What qstat -f prints of a job `1.pbs`."""
    values = {"job_state": "F", **attributes}
    return "Job Id: 1.pbs\n" + "".join(f"    {name} = {value}\n" for name, value in values.items())


@pytest.mark.parametrize(
    ("attributes", "phase", "cause"),
    [
        ({"job_state": "Q"}, Phase.WAITING, None),
        ({"job_state": "H"}, Phase.WAITING, None),
        ({"job_state": "R"}, Phase.RUNNING, None),
        ({"job_state": "E"}, Phase.RUNNING, None),
        ({"Exit_status": 0, "substate": 92}, Phase.ENDED, Cause.EXIT),
        ({"Exit_status": 1, "substate": 93}, Phase.ENDED, Cause.EXIT),
        ({"Exit_status": -29, "substate": 93}, Phase.ENDED, Cause.WALLTIME),
        ({"Exit_status": 143, "substate": 91}, Phase.ENDED, Cause.DELETED),
        ({"Exit_status": 143}, Phase.ENDED, Cause.DELETED),
        ({"substate": 91}, Phase.ENDED, Cause.DELETED),
        (
            {
                "Exit_status": 271,
                "Resource_List.walltime": "00:01:00",
                "resources_used.walltime": "00:01:02",
            },
            Phase.ENDED,
            Cause.WALLTIME,
        ),
        (
            {
                "Exit_status": 271,
                "Resource_List.walltime": "01:00:00",
                "resources_used.walltime": "00:01:02",
            },
            Phase.ENDED,
            Cause.DELETED,
        ),
    ],
)
def test_why_a_job_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attributes: dict[str, Any],
    phase: Phase,
    cause: Cause | None,
) -> None:
    command(tmp_path, monkeypatch, "qstat", f"echo '{shown(**attributes)}'")
    job = batch.query(["1.pbs"])["1.pbs"]
    assert (job.phase, job.cause) == (phase, cause)


def test_a_job_that_pbs_has_forgotten_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, monkeypatch, "qstat", "echo 'qstat: Unknown Job Id 2.pbs' >&2; exit 153")
    assert batch.query(["2.pbs"]) == {"2.pbs": Job("2.pbs", Phase.ENDED, Cause.UNKNOWN)}


def test_a_server_without_job_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenPBS's default: `qstat -x` is refused, and of an ended job nothing is known."""
    text = f"""case "$*" in
    *-x*) echo "qstat: PBS is {batch.NO_HISTORY} 1.pbs" >&2; exit 36 ;;
    *) echo '{shown(job_state="R")}'; echo "qstat: Unknown Job Id 2.pbs" >&2; exit 153 ;;
    esac"""
    command(tmp_path, monkeypatch, "qstat", text)
    found = batch.query(["1.pbs", "2.pbs"])
    assert found["1.pbs"].phase is Phase.RUNNING and found["2.pbs"].cause is Cause.UNKNOWN


@pytest.mark.parametrize(
    ("text", "cause"),
    [("1000 5000", Cause.DELETED), ("4999 5000", Cause.WALLTIME), ("", Cause.UNKNOWN), (None, Cause.UNKNOWN)],
)
def test_without_history_the_job_knows_why_it_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, cause: Cause
) -> None:
    monkeypatch.setenv("MADE_PBS_FOLDER", str(tmp_path))
    settings.cache_clear()
    run = UUID(int=1)
    submit.folder(run).mkdir(parents=True)
    if text is not None:
        (submit.folder(run) / "1.pbs.terminated").write_text(text)
    assert submit.cause(run, "1.pbs") is cause
    settings.cache_clear()


@pytest.fixture
def pbs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """MADE_PBS_FOLDER; the environment has a secret."""
    monkeypatch.setenv("MADE_PBS_FOLDER", str(tmp_path / "pbs"))
    monkeypatch.setenv("MADE_DATABASE_URL", "postgresql://made:p4ss@h/made")
    settings.cache_clear()
    yield tmp_path / "pbs"
    settings.cache_clear()


def test_secrets_are_for_the_user_alone_and_only_until_the_job_has_them(
    pbs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, monkeypatch, "qsub", "echo 7.pbs")
    run = UUID(int=1)
    assert submit.submit(run, PbsJob()) == "7.pbs"
    environment, script = (submit.folder(run) / name for name in ("environment", "job.sh"))
    assert environment.stat().st_mode & 0o777 == 0o600 and "p4ss" in environment.read_text()
    assert "p4ss" not in script.read_text()
    (tmp_path / "start_ray_cluster.sh").write_text('echo "$MADE_DATABASE_URL"; return 1\n')
    script.write_text(script.read_text().replace(str(SCRIPTS), str(tmp_path)))
    done = subprocess.run(["bash", script], env={"PATH": os.environ["PATH"], "PBS_JOBID": "7.pbs"})
    assert done.returncode == 1 and "p4ss" in submit.log(run, "7.pbs").read_text()
    assert not environment.exists()


def test_secrets_of_a_job_that_never_began_are_removed(
    pbs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = UUID(int=1)
    command(tmp_path, monkeypatch, "qsub", "echo 7.pbs")
    submit.submit(run, PbsJob())
    submit.settled(run, "6.pbs")  # of an earlier job
    assert (submit.folder(run) / "environment").exists()
    submit.settled(run, "7.pbs")
    assert not (submit.folder(run) / "environment").exists()
    submit.settled(run, "7.pbs")
    command(tmp_path, monkeypatch, "qsub", "echo no >&2; exit 1")
    with pytest.raises(BatchError):
        submit.submit(run, PbsJob())
    assert not (submit.folder(run) / "environment").exists()


def test_folders_of_old_runs_are_removed(
    pbs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, monkeypatch, "qsub", "echo 7.pbs")
    old, logged, other = submit.folder(UUID(int=2)), submit.folder(UUID(int=3)), pbs_folder / "runs" / "mine"
    for place in (old, logged, other):
        place.mkdir(parents=True)
        (place / "1.pbs.log").touch()
    long_ago = time.time() - 86400 * (submit.KEPT_DAYS + 1)
    for path in (old / "1.pbs.log", other / "1.pbs.log", old, logged, other):
        os.utime(path, (long_ago, long_ago))
    submit.submit(UUID(int=1), PbsJob())
    assert not old.exists() and logged.exists() and other.exists()


def test_a_job_that_qsub_may_have_submitted_keeps_its_environment(
    pbs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "QSUB_SECONDS", 0.2)
    command(tmp_path, monkeypatch, "qsub", "exec sleep 60")
    with pytest.raises(NoAnswer):
        submit.submit(UUID(int=1), PbsJob())
    assert "p4ss" in (submit.folder(UUID(int=1)) / "environment").read_text()


def test_what_a_qsub_that_hangs_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty record, which says that there may be a job; a refusal leaves none."""
    monkeypatch.setattr(batch, "QSUB_SECONDS", 0.2)
    record, script = tmp_path / "job", tmp_path / "job.sh"
    command(tmp_path, monkeypatch, "qsub", "exec sleep 60")
    with pytest.raises(NoAnswer, match=r"qsub did not answer within 0\.2 s"):
        batch.submit(script, record)
    assert record.read_text() == ""
    command(tmp_path, monkeypatch, "qsub", "echo 'qsub: Unknown queue' >&2; exit 170")
    with pytest.raises(BatchError, match="Unknown queue"):
        batch.submit(script, record)
    assert not record.exists()


def test_jobs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, monkeypatch, "qselect", 'test "$*" = "-N made-0000abcd" && echo 7.pbs && echo 8.pbs')
    assert batch.named("made-0000abcd") == ["7.pbs", "8.pbs"]
    command(tmp_path, monkeypatch, "qselect", "echo 'Connection refused' >&2; exit 1")
    with pytest.raises(BatchError, match="qselect failed: Connection refused"):
        batch.named("made-0000abcd")


@pytest.mark.parametrize(
    ("pid", "gone"),
    [
        (None, False),  # not recorded yet
        ("7.pbs", False),
        ("serve:7.pbs", False),
        ("after:6.pbs", False),  # the job is being submitted
        ("after:7.pbs", True),  # the next one is
        ("8.pbs", True),
        ("serve:8.pbs", True),
    ],
)
def test_whether_another_job_has_the_run(pid: str | None, gone: bool) -> None:
    run = FlowRun(id=UUID(int=1), flow_id=UUID(int=2), infrastructure_pid=pid)
    assert outcome.has_gone_on(run, "7.pbs") is gone


def test_long_lines_and_functions_of_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = 'BASH_FUNC_module%%=() {  local x="${1:-}"\n job_state = Q\n}'
    text = shown(job_state="R", exec_vnode="(n1:ncpus=24:\n\tngpus=4)", Variable_List=functions)
    (tmp_path / "shown").write_text(text)
    command(tmp_path, monkeypatch, "qstat", f"cat {tmp_path}/shown")
    job = batch.query(["1.pbs"])["1.pbs"]
    assert (job.phase, job.exec_vnode) == (Phase.RUNNING, "(n1:ncpus=24:ngpus=4)")


@pytest.mark.parametrize(
    "text", ["echo 'Connection refused' >&2; exit 1", "echo 'no job'", "echo 'Job Id: 1.pbs'"]
)
def test_nothing_is_concluded_when_pbs_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    command(tmp_path, monkeypatch, "qstat", text)
    with pytest.raises(BatchError, match="qstat"):
        batch.query(["1.pbs"])


def test_without_pbs_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BatchError, match="qdel is not on the PATH"):
        batch.delete("1.pbs")


@given(
    field=st.sampled_from(["select", "walltime", "queue", "account", "place"]),
    before=st.text(max_size=5),
    after=st.text(max_size=20),
)
def test_no_variable_adds_a_line_to_the_script(field: str, before: str, after: str) -> None:
    with pytest.raises(ValidationError):
        PbsJob(**{field: f"{before}\n{after}"})


@pytest.mark.parametrize(
    "directive", ["-o /elsewhere", "-S /bin/sh", "-l walltime=1", "-v A=1", "-P x\n#PBS -V"]
)
def test_directives_that_are_refused(directive: str) -> None:
    with pytest.raises(ValidationError):
        PbsJob(directives=[directive])


def test_the_script_has_what_was_asked_for() -> None:
    job = PbsJob(
        select="2:ncpus=24:ngpus=4",
        walltime="12:00:00",
        queue="gpu",
        account="a1",
        directives=["-P x"],
        env={"PREFECT__FLOW_RUN_ID": "c0ffee00-0000-0000-0000-00000000abcd"},
    )
    lines = job.script(Path("/shared/run"), ["true"]).splitlines()
    for option in ("-l select=2:ncpus=24:ngpus=4", "-l walltime=12:00:00", "-q gpu", "-A a1", "-P x", "-r n"):
        assert f"#PBS {option}" in lines
    assert "#PBS -N made-0000abcd" in lines


def test_the_pool_takes_no_command_and_no_environment() -> None:
    template = pool.base_job_template()
    assert not {"command", "env"} & (
        set(template["job_configuration"]) | set(template["variables"]["properties"])
    )
    assert all("description" in field for field in template["variables"]["properties"].values())
