"""The job's end, its script, and what a run makes of both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import preflight
from flows.cli.pbs import script
from flows.deadline import Pace
from flows.pbs import job
from flows.pbs.pool import PbsJob
from flows.pbs.resources import Share
from flows.pbs.script import SCRIPTS, Wish, job_script
from flows.placement import Node, plan
from made_core.errors import EncoderError, OutputError, UserError
from made_core.recipe import Work
from made_core.settings import Settings
from tests.support.pbs.request import complete, parse


def qstat(folder: Path, text: str) -> dict[str, str]:
    """An environment in which qstat prints a job."""
    (folder / "job.txt").write_text(text)
    (folder / "qstat").write_text(f"#!/bin/sh\ncat {folder}/job.txt\n")
    (folder / "qstat").chmod(0o755)
    return {"PBS_JOBID": "7.pbs", "PATH": f"{folder}:{os.environ['PATH']}"}


def test_facts_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.asctime(time.localtime(time.time() - 600))
    environment = qstat(
        tmp_path,
        "Job Id: 7.pbs\n    job_state = R\n    exec_vnode = (n1:ncpus=24:\n\tngpus=4)\n"
        "    resources_used.walltime = 00:02:00\n"
        f"    Resource_List.walltime = 01:00:00\n    stime = {started}\n    Variable_List = A=walltime = 3\n",
    )
    monkeypatch.setenv("PATH", environment["PATH"])
    facts = job.facts(environment)
    assert facts.shares == {"n1": Share(24, 4)} and facts.walltime == 3600
    assert facts.left == pytest.approx(3000, abs=5)
    at = job.stop_at(facts, 1000)
    assert at == pytest.approx(1000 + 3000 - 300, abs=5)


def test_without_qstat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert job.facts({"PBS_JOBID": "7.pbs"}) == job.JobFacts()
    facts = job.facts({"PBS_JOBID": "7.pbs", "MADE_WALLTIME": "0:10:00"})
    assert facts.left == 600 and job.stop_at(facts, 0) == 540
    assert job.stop_at(job.JobFacts(), 0) is None
    with pytest.raises(UserError, match="MADE_WALLTIME=soon: expected a duration"):
        job.facts({"MADE_WALLTIME": "soon"})


def test_a_script_is_what_qsub_takes() -> None:
    further = ("-W umask=022", "-m ae")
    wish = Wish("2:ncpus=24:ngpus=4", "12:00:00", place="scatter", queue="gpu", further=further)
    text = job_script(wish, ["--recipe", "/data/my recipe.yaml"], Path("/data/my folder"))
    request = complete(parse([]), text)
    assert [(c.ncpus, c.ngpus) for c in request.chunks] == [(24, 4), (24, 4)]
    assert (request.place, request.walltime, request.last("q")) == ("scatter", 43200, "gpu")
    assert all(f"#PBS {directive}\n" in text for directive in further)
    assert "run_in_job curate --recipe '/data/my recipe.yaml'" in text and "cd '/data/my folder'" in text


@pytest.mark.parametrize("account", ["proj:gpu", "a.b@site-1"])
def test_the_pool_and_the_script_take_the_same_accounts(account: str) -> None:
    assert PbsJob(account=account).account == account
    assert f"#PBS -A {account}" in Wish("1:ncpus=1", "1:00", account=account).directives()


def printed(folder: Path, source: str = "shards", **settings: str) -> None:
    """Prints a job script for a recipe in a folder that has the shard shards/0.tar."""
    (folder / "shards").mkdir(exist_ok=True)
    (folder / "shards" / "0.tar").touch()
    (folder / "R.yaml").write_text(
        f"sources: [{folder / source}]\noutput: {folder}/out\nadmission: {{require_stats: false}}\n"
    )
    sets = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    script(str(folder / "R.yaml"), "1:ncpus=4", "1:00:00", set_=sets)


def test_made_pbs_script_checks_what_made_curate_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "settings", lambda: Settings(ray_address="nowhere.invalid:1"))
    printed(tmp_path)  # the job has a Ray of its own
    assert "run_in_job curate" in capsys.readouterr().out
    with pytest.raises(EncoderError, match=r"ViT-B-23.*did you mean"):
        printed(tmp_path, encoder__model="ViT-B-23", encoder__pretrained="openai")
    with pytest.raises(EncoderError, match="openia"):
        printed(tmp_path, encoder__model="ViT-B-32", encoder__pretrained="openia")
    with pytest.raises(UserError, match=r"no such folder: .*/shards9; if only compute nodes have it"):
        printed(tmp_path, source="shards9")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"notes\.txt"):
        printed(tmp_path)
    assert not capsys.readouterr().out


def test_curate_pbs_takes_a_recipe_and_further_arguments(tmp_path: Path) -> None:
    (tmp_path / "run_in_job.sh").write_text("run_in_job() { printf '%s\\n' \"$@\"; }\n")
    (tmp_path / "arguments").write_text("--set\ndedup.eps=0.07\n--output\n/data/my output\n")
    given = {"MADE_RECIPE": "/data/R.yaml", "MADE_ARGUMENTS": str(tmp_path / "arguments")}

    def taken(*names: str) -> list[str]:
        job = {"MADE_SCRIPTS": str(tmp_path), "PBS_O_WORKDIR": str(tmp_path), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            ["bash", SCRIPTS / "curate.pbs"], env=job | {name: given[name] for name in names},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    recipe, further = ["--recipe", "/data/R.yaml"], ["--set", "dedup.eps=0.07", "--output", "/data/my output"]
    assert taken(*given) == ["curate", *recipe, *further]
    assert taken("MADE_RECIPE") == ["curate", *recipe]
    assert taken("MADE_ARGUMENTS") == ["curate", *further]


def test_curate_sbatch_takes_a_recipe(tmp_path: Path) -> None:
    script = SCRIPTS.parent / "slurm" / "curate.sbatch"
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "MADE_RECIPE": "/data/my R.yaml", "PATH": os.environ["PATH"]}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", script], env=job, capture_output=True, text=True)

    elsewhere = run()
    assert elsewhere.returncode == 2 and "submit from made's folder, or add MADE_SCRIPTS=" in elsewhere.stderr
    folder = tmp_path / "deployments" / "pbs"
    folder.mkdir(parents=True)
    (folder / "run_in_job.sh").write_text("run_in_job() { printf '%s\\n' \"$@\"; exit 3; }\n")
    done = run()
    assert (done.returncode, done.stdout.splitlines()) == (3, ["curate", "--recipe", "/data/my R.yaml"])


@pytest.mark.parametrize(
    ("words", "started"),
    [("curate --recipe R", True), ("retry r1", True), ("status", True), ("pbs serve --pool p", False)],
)
def test_the_servers_of_a_job_start_for_all_that_need_its_ledger(
    tmp_path: Path, words: str, started: bool
) -> None:
    (tmp_path / "start_ray_cluster.sh").write_text(
        'made_python() { echo "ledger: ${MADE_DATABASE_URL:-none}"; echo "$*"; }\nstop_ray_cluster() { :; }\n'
    )
    (tmp_path / "start_servers.sh").write_text(
        "start_servers() { export MADE_DATABASE_URL=job; }\nstop_servers() { :; }\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'made_scripts={tmp_path}; source {SCRIPTS}/run_in_job.sh; run_in_job {words}'],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"ledger: {'job' if started else 'none'}", f"-m flows.cli {words}"]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish("2:ncpus", "1:00"), "--select 2:ncpus: expected chunks such as"),
        (Wish("1:ncpus=1", "12h"), "--walltime 12h: expected a duration"),
        (Wish("1:ncpus=1", "1:00", name="my job"), "--name my job: expected letters"),
        (Wish("1:ncpus=1", "1:00", place="apart"), "--place apart: expected free"),
        (Wish("1:ncpus=1", "1:00", queue="a b"), "--queue a b: expected letters, digits, . _ @ and -"),
        (Wish("1:ncpus=1", "1:00", account="a b"), "--account a b: expected letters, digits, . _ : @ and -"),
        (Wish("1:ncpus=1", "1:00", further=("-V x",)), "--directive -V x: expected one of -l, -W,"),
        (
            Wish("1:ncpus=1", "1:00", further=("-P x\n#PBS -V",)),
            "-V: expected one of -l, -W,",
        ),
        (Wish("1:ncpus=1", "1:00", further=("-l mem=1gb,walltime=9",)), "--directive .*are set by their own"),
    ],
)
def test_what_pbs_would_refuse(wish: Wish, words: str) -> None:
    with pytest.raises(UserError, match=words):
        job_script(wish, [], Path("/"))


@given(st.text())
def test_a_select_that_passes_has_no_blank_and_no_line_break(text: str) -> None:
    try:
        lines = Wish(text, "1:00").directives()
    except UserError:
        return
    assert len(lines) == 5 and not any(c.isspace() for c in text)


def test_shellcheck_is_clean() -> None:
    scripts = [p for p in SCRIPTS.parent.rglob("*") if p.suffix in (".sh", ".pbs", ".sbatch")]
    scripts.append(SCRIPTS.parents[1] / ".ci" / "run")
    assert len(scripts) >= 4
    try:
        done = subprocess.run(
            ["shellcheck", "-x", *map(str, scripts)], cwd=SCRIPTS.parents[1], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    assert done.returncode == 0, done.stdout


def test_pace_estimates_once_and_warns() -> None:
    said: list[str] = []
    pace = Pace(1000.0, said.append)
    for now, samples in ((0.0, 500), (10.0, 1000), (30.0, 2000), (60.0, 3500)):
        pace.update("embed", samples, 100_000, now)
    assert len(said) == 2
    assert said[0] == (
        "embed: 50.0 samples/s, about 0:32:10 for the remaining 96,500; the job has 0:15:40 left"
    )
    assert said[1].startswith("warning: the time will not suffice: 50% of embed")
    pace.update("pairs", 0, None, 0)  # of unknown size
    assert len(said) == 2


def test_pace_without_a_job_or_with_time_enough() -> None:
    said: list[str] = []
    for stop_at in (None, 1e6):
        pace = Pace(stop_at, said.append)
        pace.update("embed", 0, 100, 0.0)
        pace.update("embed", 50, 100, 25.0)
    assert said[0] == "embed: 2.0 samples/s, about 0:00:25 for the remaining 50" and len(said) == 2


def test_pace_has_nothing_to_say_of_a_stage_that_has_ended() -> None:
    said: list[str] = []
    pace = Pace(None, said.append)
    pace.update("embed", 260, 1145, 0.0)
    pace.update("embed", 1145, 1145, 22.0)
    assert said == []


def test_the_plan() -> None:
    nodes = [Node("n1", 24, 4), Node("n2", 8, 0)]
    assert plan(nodes, Work()) == [
        "plan: 32 embed workers of 1 CPU on 2 nodes (24 on n1, 8 on n2)",
        "warning: 4 of 4 GPUs are not used: see work.gpus_per_task",
    ]
    assert plan(nodes, Work(cpus_per_task=4, gpus_per_task=1)) == [
        "plan: 4 embed workers of 4 CPU and 1 GPU on 2 nodes (4 on n1, 0 on n2)",
        "plan: 8 workers of 4 CPU in other stages",
    ]
    assert "no node has room" in plan(nodes, Work(cpus_per_task=64))[-1]
    assert "tasks_in_flight" in plan(nodes, Work(tasks_in_flight=8))[-1]


def test_a_run_is_interrupted_in_time() -> None:
    """Even one that a shell started in the background, with SIGINT ignored."""
    code = "import time\nfrom flows.deadline import guarded\nwith guarded():\n    time.sleep(60)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MADE_STOP_AT": f"{time.time() + 0.5}"},
        capture_output=True, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert "KeyboardInterrupt" in done.stderr and "Submit it again to go on" in done.stderr
