"""The service's logs are cut while their processes write."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from flows.service import logs, state

# Writes numbered lines until it is ended, one write each, as a process of the service does.
WRITER = "import itertools\nfor n in itertools.count(): print(n, '.' * 80, flush=True)"
WHOLE = re.compile(r"^(\d+) \.{80}$", re.MULTILINE)


def test_a_log_is_cut_only_beyond_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "prefect.log"
    assert not logs.rotate(log, 3)  # there is none yet
    log.write_bytes(b"abc")
    assert not logs.rotate(log, 3) and log.read_bytes() == b"abc"
    for content in (b"abcd", b"efghi"):
        log.write_bytes(content)
        assert logs.rotate(log, 3) and log.read_bytes() == b""
        assert (tmp_path / "prefect.log.1").read_bytes() == content
    assert {p.name for p in tmp_path.iterdir()} == {"prefect.log", "prefect.log.1"}


def test_a_process_writes_on_and_lines_are_lost_only_at_a_cut(tmp_path: Path) -> None:
    """How many depends on how long the machine lets this process wait just then."""
    log, limit = tmp_path / "worker.log", 200_000
    with log.open("ab") as output:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=output)
    try:
        seen: list[int] = []
        for _ in range(5):
            while not logs.rotate(log, limit):
                time.sleep(0.001)
            seen += [int(n) for n in WHOLE.findall(log.with_suffix(".log.1").read_text())]
    finally:
        writer.kill()
        writer.wait()
    gaps = sum(after != before + 1 for before, after in pairwise(seen))
    assert seen[0] == 0 and seen == sorted(set(seen)) and gaps <= 4
    assert log.stat().st_size < 10 * limit and b"\0" not in log.read_bytes()


def test_all_logs_are_looked_at_and_a_full_disk_stops_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs.rotate, "__defaults__", (3,))
    paths = [state.log_path("supervisor"), home / "postgres" / "server.log", state.log_path("worker")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"abcd")
    paths[1].with_suffix(".log.1").mkdir()  # cannot be written
    logs.rotate_all(["supervisor", "postgres", "worker"])
    assert [path.read_bytes() for path in paths] == [b"", b"abcd", b""]
    assert "the log of postgres cannot be cut" in caplog.text
