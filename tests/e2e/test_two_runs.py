"""Two concurrent runs in separate processes with one Ray cluster, ledger and Prefect server."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flows import steps
from made_core.errors import LeaseLost, OutputError
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.stages import CAPTIONS, EMBED, STAGES, TABULATE, WRITE
from made_core.types import RunState
from tests.support import checks
from tests.support.checks import outcome, tars
from tests.support.factories import make_shard, members
from tests.support.runs import MADE, Curate

SHARDS = 8
SHARED = [s for s in STAGES if not s.in_output and s is not CAPTIONS]  # the encoder has no captions


@pytest.fixture
def ledger(servers: str) -> Iterator[Ledger]:
    """What the runs share."""
    with closing(Ledger.open(servers)) as ledger:
        yield ledger


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Shards with some duplicate images."""
    for n in range(SHARDS):
        numbers = range(20 * n, 20 * n + 25)  # five of them are in the next shard too
        found = [(f"{i:08d}", members(i, f"caption {i}", uid=f"{32 * n:016x}{i:016x}")) for i in numbers]
        make_shard(tmp_path / "in", f"{n:05d}", found)
    return tmp_path / "in"


@pytest.fixture
def start(
    elsewhere: dict[str, str], tmp_path: Path, source: Path
) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts `made curate` on an output; all share one store."""
    started = []

    def start(output: Path) -> subprocess.Popen[str]:
        command = [MADE, "curate", "--source", str(source), "--output", str(output)]
        command += ["--store", str(tmp_path / "store"), "--set", "clusters.k=4"]
        made = subprocess.Popen(
            command, env=elsewhere, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        started.append(made)
        return made

    yield start
    for made in started:
        made.kill()
        made.communicate()


def wait(until: Callable[[], Run | None], rivals: list[subprocess.Popen[str]]) -> Run:
    """Waits for a result, unless all processes end first."""
    deadline = time.monotonic() + 500
    while (found := until()) is None:
        assert any(made.poll() is None for made in rivals) and time.monotonic() < deadline
        time.sleep(0.02)
    return found


def live(ledger: Ledger, output: Path) -> Run | None:
    """The live run of an output."""
    run = ledger.runs.of_output(str(output))
    return run if run is not None and run.held and run.state is RunState.RUNNING else None


def test_two_runs_at_once(
    ledger: Ledger,
    curate: Curate,
    start: Callable[[Path], subprocess.Popen[str]],
    source: Path,
    tmp_path: Path,
) -> None:
    """One of two processes gets the output. A third run shares all units except the output's with it."""
    outs = [tmp_path / "one", tmp_path / "two"]
    same = {"store": str(tmp_path / "store"), "clusters": {"k": 4}}
    rivals = [start(outs[0]), start(outs[0])]
    first = wait(lambda: live(ledger, outs[0]), rivals)
    told = rf"{outs[0]} is being written by run {first.id}, held by {first.holder} until"
    with pytest.raises(OutputError, match=told):
        curate(source, output=outs[0], **same)
    with pytest.raises(OutputError, match=told):
        curate(source, output=outs[0], replace=True, dedup={"eps": 0.02})
    curate(source, output=outs[1], **same)

    ended = {made.pid: (made.communicate(timeout=300)[1], made.returncode) for made in rivals}
    stderr, code = ended.pop(int(str(first.holder).partition("/")[0].rpartition(":")[2]))
    assert code == 0, stderr
    [(stderr, code)] = ended.values()
    assert code == 2, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("made: ") and f"run {first.id}, held by {first.holder}" in last
    assert "Traceback" not in stderr

    runs = [run for out in outs if (run := ledger.runs.of_output(str(out)))]
    assert runs[0].created_at < runs[1].created_at < runs[0].updated_at  # at once
    assert [run.state for run in runs] == [RunState.COMPLETED] * 2 and runs[0].id == first.id
    for out in outs:
        checks.accounts_balance(out, tars(source))
        assert checks.bytes_equal(out, tars(source)) == checks.summary(out)["samples"]["kept"]
        checks.representatives_stand(out, tmp_path / "store")
    assert outcome(outs[0]) == outcome(outs[1])
    nothing_twice(ledger, runs)


def nothing_twice(ledger: Ledger, runs: list[Run]) -> None:
    """Each shared unit was claimed once and done once."""
    scopes = [{s.stage: s.scope for s in ledger.progress.of(run.id)} for run in runs]
    for stage in SHARED:
        assert scopes[0][stage.name] == scopes[1][stage.name]
        units = ledger.units.results(stage, scopes[0][stage.name], None)
        assert len(units) == SHARDS or stage is not EMBED
        for key in units:
            events = ledger.units.events(stage, scopes[0][stage.name], key)
            assert Counter(e.kind for e in events) == {"claimed": 1, "done": 1}, (stage.name, key)
    for own in (TABULATE, WRITE):
        assert scopes[0][own.name] != scopes[1][own.name]


def test_an_output_taken_over_is_not_overwritten(
    servers: str,
    ledger: Ledger,
    curate: Curate,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flow suspended beyond its lease resumes before publishing; another run owns the output."""
    output, write = tmp_path / "output", steps.write

    def slept(*args: Any) -> Any:
        written = write(*args)
        engine = create_engine(servers)
        with engine.begin() as connection:
            late = "UPDATE run SET lease_until = now() - interval '1 second' WHERE output = :output"
            connection.execute(text(late), {"output": str(output)})
        engine.dispose()
        ledger.runs.begin("other", "another", {}, str(output), "/store", "else", 60, True)
        return written

    monkeypatch.setattr(steps, "write", slept)
    with pytest.raises(LeaseLost, match=f"its output {output}"):
        curate(source, output=output, store=str(tmp_path / "store"), work={"attempts": 1})
    assert not (output / "summary.json").exists() and not list(output.glob("shards/*.tar"))
    found = ledger.runs.of_output(str(output))
    assert found is not None and found.id == "other" and found.state is RunState.RUNNING
