"""`made status` and `made retry` as separate processes on a prepared ledger."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from flows.cli import app, main, runs, terminal
from made_core.errors import CorruptShard
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
from made_core.stages import EMBED, EmbedOutput
from made_core.types import FileRef, RunState, Shard
from tests.support.runs import MADE, made_here
from tests.support.summaries import summary_of


def environment(url: str) -> dict[str, str]:
    values = {k: v for k, v in os.environ.items() if not k.startswith(("MADE_", "PREFECT_"))}
    return {**values, "MADE_DATABASE_URL": url, "COLUMNS": "200"}


def made(url: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs `made ARGS` on that ledger."""
    return subprocess.run(
        [MADE, *args], env=environment(url), capture_output=True, text=True, timeout=300, check=False
    )


SUMMARY = summary_of(run="whole", state="completed")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ledger: `whole` is completed, `partly` has a failed shard, `live` is held by another process."""
    place = tmp_path_factory.mktemp("outputs")
    (place / "whole" / "shards").mkdir(parents=True)
    for name in ("keep.parquet", "accounts.parquet", "report.html", "shards/sizes.json"):
        (place / "whole" / name).touch()
    (place / "x").write_bytes(b"x")
    ref = FileRef(str(place / "x"), 1, "0" * 32, "0" * 8)
    (place / "whole" / "summary.json").write_text(SUMMARY.json_text())
    with embedded(tmp_path_factory.mktemp("home")) as url:
        ledger = Ledger.open(url)
        for run in ("whole", "partly", "live"):
            ledger.runs.begin(run, run, {}, f"{place}/{run}", "/store", "elsewhere:7", 3600, False)
            ledger.runs.put_shards(run, [Shard("00001", "/in/00001.tar", run, 1, 5)])
            ledger.units.put(run, EMBED, run, [run], 3)
        (unit,) = ledger.units.claim(EMBED, "partly", ["partly"], 1, 60, "elsewhere:7")
        ledger.units.fail(unit, CorruptShard("/in/00001.tar ends early"), 0)
        (unit,) = ledger.units.claim(EMBED, "whole", ["whole"], 1, 60, "elsewhere:7")
        ledger.units.finish(unit, EmbedOutput(5, ref, ref, 0, 0, 0))
        ledger.runs.end("partly", "elsewhere:7", RunState.COMPLETED_WITH_FAILURES, {}, None)
        ledger.runs.end("whole", "elsewhere:7", RunState.COMPLETED, SUMMARY.document(), None)
        ledger.close()
        yield url


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["status", "nonsense", "--json"], r"no run nonsense in the ledger, by id, .*: live \(/.*, partly"),
        (["status", "--watch"], "--watch needs a RUN"),
        (["status", "live", "--watch", "--json"], "cannot be combined with --json"),
        (["sweep", "nonsense"], "no run nonsense in the ledger"),
        (["review", "nonsense"], "no run nonsense in the ledger"),
        (["retry", "nonsense"], "no run nonsense in the ledger"),
        (["retry", "live"], r"run live is held by elsewhere:7 until \d{4}-"),
        (["retry", "partly", "--shard", "00009"], r"shard 00009 did not fail .*; failed \(1\): 00001"),
        (["retry", "whole", "--shard", "00001"], r"shard 00001 did not fail .*; failed \(0\): none"),
        (["retry", "partly"], "run partly: sources: missing"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(url: str, args: list[str], words: str) -> None:
    done = made_here(*args, MADE_DATABASE_URL=url)
    assert done.returncode == 2, done.stderr
    assert re.search(words, done.stderr), done.stderr
    assert done.stderr.startswith("made:") and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_run_without_failures_has_nothing_to_retry(url: str) -> None:
    done = made(url, "retry", "whole")
    assert (done.returncode, done.stdout) == (0, "run whole is completed: nothing to retry\n"), done.stderr


def test_json_is_all_of_stdout(url: str) -> None:
    runs = made(url, "status", "--json")
    assert runs.returncode == 0 and runs.stderr == ""
    assert {run["id"]: run["state"] for run in json.loads(runs.stdout)["runs"]} == {
        "live": "running", "partly": "completed_with_failures", "whole": "completed"
    }  # fmt: skip
    output = next(run["output"] for run in json.loads(runs.stdout)["runs"] if run["id"] == "partly")
    one = json.loads(made(url, "status", output, "--json").stdout)
    assert [f["shard"] for f in one["failures"]] == ["00001"]


def test_ctrl_c_ends_watch_with_0(url: str) -> None:
    watching = subprocess.Popen(
        [MADE, "status", "live", "--watch"],
        env=environment(url) | {"PYTHONUNBUFFERED": "1", "FORCE_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    seen = ""
    while seen.count("stages") < 2:  # shown and refreshed
        line = watching.stdout.readline()
        assert line, "it ended early"
        seen += line
    watching.send_signal(signal.SIGINT)
    rest, errors = watching.communicate(timeout=500)
    assert watching.returncode == 0 and "Traceback" not in errors, errors
    assert "live" in seen + rest


def test_exit_code_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 if shards failed: click returns it and raises nothing."""

    def failed(**_: object) -> None:
        raise typer.Exit(terminal.WITH_FAILURES)

    (command,) = [c for c in app.app.registered_commands if c.callback is runs.why]
    monkeypatch.setattr(command, "callback", functools.wraps(runs.why)(failed))
    monkeypatch.setattr(sys, "argv", ["made", "why", "x", "--output", "y"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == terminal.WITH_FAILURES
