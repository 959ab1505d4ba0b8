"""The command line in separate processes with their own home."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from made_core.ledger import postgres
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED
from made_core.types import RunState
from tests.support import checks, prefect_database
from tests.support.factories import make_shard, members
from tests.support.runs import MADE, made_here, unset


def made(home: Path, *args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `made ARGS` with MADE_HOME = `home`."""
    return subprocess.run(
        [MADE, *map(str, args)],
        env={**unset(), "MADE_HOME": str(home), "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small shard that contains each image twice."""
    folder = tmp_path_factory.mktemp("shards")
    samples = [(f"{n:08d}", members(n % 30, f"caption {n}", uid=f"{n:032x}")) for n in range(60)]
    make_shard(folder, "00000", samples)
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port without a listener, reserved for the test."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--source", "{missing}"], "no such folder"),
        (["--source", "{empty}"], r"no shard \(\*\.tar\)"),
        (["--source", "{bare}"], "_stats.json"),
        (["--source", "{bare}/00000.tar"], "00000_stats.json"),
        (["--source", "{shards}", "--set", "dedup.epz=1"], "dedup.epz: unknown field.*eps_max"),
        (["--source", "{shards}", "--set", "dedup.eps=2"], "dedup.eps: .*less than 1"),
        (["--source", "{shards}", "--set", "clusters.k=many"], r"clusters\.k"),
        (["--source", "{shards}", "--recipe", "{missing}.yaml"], "No such file"),
        (["--source", "{shards}", "--set", "encoder.model=ViT-B-32"], "needs `pretrained`"),
        (["--source", "{shards}", "--output", "{shards}/out"], "is inside the source"),
        (["--source", "{shards}", "--log-folder", "{shards}/logs"], "log folder .* is inside the source"),
        (["--source", "s33://bucket/x"], r"made: s33://bucket/x: unknown protocol s33; did you mean s3\?"),
        (["--source", "{shards}", "--output", "/proc/x"], "output /proc/x cannot be written"),
        (["--source", "{shards}", "--store", "/proc/x"], "store /proc/x cannot be written"),
        (["--source", "{shards}", "--output", "{taken}"], "taken belongs to run other with another recipe"),
        (
            ["--source", "{shards}", "--output", "{empty}/../bare"],
            "bare contains 00000.parquet but no run.json",
        ),
        (["--source", "{shards}", "--ray-address", "127.0.0.1:{port}"], "no Ray head answers at"),
        (["--source", "{shards}", "--ray-address", "192.0.2.7:6379"], "on another host.*MADE_DATABASE_URL"),
        (
            ["--source", "{shards}", "--set", "encoder.model=ViT-B-23", "--set", "encoder.pretrained=openai"],
            "did you mean ViT-B-32",
        ),
        ([], "sources: missing"),
        (["--surce", "{shards}"], "No such option"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    tmp_path: Path, shards: Path, taken_port: int, args: list[str], words: str
) -> None:
    """Reported before anything starts: no server's folder is created."""
    (tmp_path / "empty").mkdir()
    make_shard(tmp_path / "bare", "00000", [("0", members(0))], finished=False)
    places = {name: tmp_path / name for name in ("missing", "empty", "bare", "taken")}
    places["taken"].mkdir()
    (places["taken"] / "run.json").write_text('{"run": "other", "identity": "other"}')
    filled = [a.format(**places, shards=shards, port=taken_port) for a in args]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "out")]
    before = sorted(p.name for p in shards.iterdir())
    done = made_here("curate", *filled, MADE_HOME=str(tmp_path / "home"))
    assert done.returncode == 2, done.stderr
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    if done.stderr.startswith("made:"):
        assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in shards.iterdir()) == before and not (tmp_path / "out").exists()
    assert not (tmp_path / "home").exists()


def test_an_output_that_the_ledger_assigns_to_another_run(tmp_path: Path, shards: Path) -> None:
    """run.json is missing, but the ledger knows the owner; refused before Prefect or Ray start."""
    home, out = tmp_path / "home", tmp_path / "out"
    with postgres.embedded(home) as url, closing(Ledger.open(url)) as ledger:
        ledger.runs.begin("r1", "one", {}, str(out), "/store", "host:1", 3600, False)
        ledger.units.put("r1", EMBED, "scope", ["a"], 3)
        held = made(home, "curate", "--source", shards, "--output", out, "--replace")
        ledger.runs.end("r1", "host:1", RunState.FAILED, None, "it failed")
        done = made(home, "curate", "--source", shards, "--output", out)
    assert (held.returncode, held.stderr.count("\n")) == (2, 1), held.stderr
    assert "is being written by run r1, held by host:1 until" in held.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert re.search("belongs to run r1 with another recipe since .*; name another output", done.stderr)
    assert "`made curate --replace`" in done.stderr
    assert not out.exists()


def test_a_log_folder_of_the_environment_is_checked_too(tmp_path: Path, shards: Path) -> None:
    args = ("curate", "--source", shards, "--output", tmp_path / "out")
    done = made_here(*args, MADE_HOME=str(tmp_path / "home"), MADE_LOG_FOLDER="/proc/x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "log folder /proc/x cannot be written" in done.stderr and not (tmp_path / "home").exists()


def test_a_run_to_extend_that_is_not_there(tmp_path: Path, shards: Path) -> None:
    """Refused before Prefect and Ray start."""
    args = ("--source", shards, "--output", tmp_path / "out", "--extends", "20991231-none")
    done = made(tmp_path / "home", "curate", *args)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("made: no run 20991231-none in the ledger")


def test_database_that_cannot_be_reached(tmp_path: Path, shards: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://made:secret@127.0.0.1:{taken.getsockname()[1]}/made"
        done = made_here("status", MADE_HOME=str(tmp_path), MADE_DATABASE_URL=url)
    assert done.returncode == 2 and "cannot be reached" in done.stderr and "secret" not in done.stderr


def test_home_of_another_host(tmp_path: Path) -> None:
    (tmp_path / "postgres.host").write_text("elsewhere\n")
    done = made_here("status", MADE_HOME=str(tmp_path))
    assert done.returncode == 2 and "elsewhere" in done.stderr and done.stderr.count("\n") == 1
    assert "`made pbs status`" in done.stderr  # which has what this command cannot have on this host


def sizes_match(
    scopes: list[dict[str, Any]], summary: dict[str, Any], decisions: list[dict[str, Any]]
) -> None:
    """The bytes of each stage are those of the formulas in docs/operations.md ("Disk"), and headers."""
    n, kept, d = len(decisions), summary["samples"]["kept"], summary["encoder"]["dim"]
    m, k, p = summary["clusters"]["trained_on"], summary["clusters"]["k"], summary["clusters"]["probes"]
    u = max(len(row["uid"]) for row in decisions)
    expected = {
        "identify": n * (u + 8),
        "fit": 4 * d * k,
        "assign": m * (p * (2 * d + 8 + 4 * p) + 20) + 8 * (k + 1),  # one batch
        "pairs": 24 * summary["dedup"]["pairs"],
        "resolve": n * (u + 21) + 8 * kept,
    }
    found = {scope["stage"]: scope for scope in scopes}
    for stage, size in expected.items():
        headers = found[stage]["bytes"] - size
        assert 0 <= headers <= 192 * found[stage]["files"], (stage, headers)
    assert found["embed"]["bytes"] > 2 * d * n


def test_curate_why_and_status(tmp_path: Path, shards: Path) -> None:
    """A complete run with the option names of the users' old script, after a wrong model name."""
    home, out = tmp_path / "home", tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dedup: {keep: easy}\n")
    prefect_database.copy(home / prefect_database.NAME)
    wrong = made(
        home, "curate", "--shards_path", shards, "--output-folder", out, "--config-path", recipe,
        "--set", "encoder.model=ViT-B-23", "--set", "encoder.pretrained=openai",
    )  # fmt: skip
    assert wrong.returncode == 2 and "did you mean" in wrong.stderr and "Traceback" not in wrong.stderr
    old = tmp_path / "logs" / "worker-node-7-12.log"  # of a process that ended long ago
    old.parent.mkdir()
    old.touch()
    os.utime(old, (0, 0))
    done = made(
        home, "curate", "--shards_path", shards, "--output-folder", out, "--config-path", recipe,
        "--log-folder", tmp_path / "logs", "--replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "60" in done.stdout and "report.html" in done.stdout
    summary = checks.summary(out)
    assert summary["samples"]["dropped"] == {"exact_copy": 30}
    checks.accounts_balance(out, {"00000": shards / "00000.tar"})
    logs = {p.name.split("-")[0]: p.read_text() for p in (tmp_path / "logs").iterdir()}
    assert not old.exists() and set(logs) == {"run", "worker"} and "attempt 1" in logs["worker"]

    here = {"MADE_HOME": str(home)}
    runs = made_here("status", **here)
    assert runs.returncode == 0 and summary["run"] in runs.stdout and "completed" in runs.stdout
    one = made_here("status", summary["run"], **here)
    assert "embed" in one.stdout and "write" in one.stdout
    assert made_here("status", "nonsense", **here).returncode == 2

    stored = made_here("store", out / "store", "--json", **here)
    assert stored.returncode == 0, stored.stderr
    (store,) = json.loads(stored.stdout)["stores"]
    assert all(scope["runs"] == [summary["run"]] for scope in store["scopes"])
    sizes_match(store["scopes"], summary, checks.decisions(out))

    dropped = next(r for r in checks.decisions(out) if r["reason"] == "exact_copy")
    printed = made_here("why", dropped["uid"], "--output", out, **here)
    assert printed.returncode == 0 and dropped["represented_by"] in printed.stdout
    assert "exact_copy" in printed.stdout and "1.000000" in printed.stdout and "00000.tar" in printed.stdout
    caption = f"caption {int(dropped['key'])}"
    assert f'"{caption}"' in printed.stdout, printed.stdout
    kept = made(home, "why", dropped["represented_by"], "--output", out)  # a process, as a user's
    assert kept.returncode == 0 and "1 removed sample:" in kept.stdout, kept.stdout
    assert f"{dropped['uid']}  exact_copy  1.000000" in kept.stdout
    not_unique, unknown = dropped["uid"][:8], "f" * 32
    for uid, folder in ((not_unique, out), (unknown, out), (dropped["uid"], home)):
        assert made_here("why", uid, "--output", folder, **here).returncode == 2


def test_sample_writes_shards_and_truth(tmp_path: Path) -> None:
    done = made(tmp_path, "sample", tmp_path / "s", "--samples", "40", "--shards", "2")
    assert done.returncode == 0 and len(list((tmp_path / "s" / "shards").glob("*.tar"))) == 2
    assert len(json.loads((tmp_path / "s" / "truth.json").read_text())["groups"]) == 40


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["{full}"], "full is not empty"),
        (["{full}/file"], "file cannot be written: Not a directory"),
        (["/proc/x"], "/proc/x cannot be written"),
        (["{full}/new", "--samples", "20", "--shards", "30"], "--shards 30: allowed: up to .* 20"),
    ],
)
def test_a_sample_that_cannot_be_written(tmp_path: Path, args: list[str], words: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    done = made_here("sample", *(a.format(full=full) for a in args), MADE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert re.search(words, done.stderr)


def test_ctrl_c_ends_in_one_line(elsewhere: dict[str, str], sample: Path, tmp_path: Path) -> None:
    """The process ends soon and prints one line; the ledger records the state."""
    command = [MADE, "curate", "--source", str(sample / "shards"), "--output", str(tmp_path / "out")]
    with subprocess.Popen(
        command, env=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as made:  # fmt: skip
        assert made.stdout is not None
        while not (line := made.stdout.readline()).startswith("run "):
            assert line, "it ended early"
        os.killpg(made.pid, signal.SIGINT)
        rest = made.stdout.read()
    assert made.returncode == 130
    assert rest.splitlines()[-1] == "made: interrupted: re-run to resume"
    assert "Traceback" not in rest
    with closing(Ledger.open(elsewhere["MADE_DATABASE_URL"])) as ledger:
        run = ledger.runs.of_output(str(tmp_path / "out"))
    assert run is not None and run.error == "interrupted: re-run to resume"
