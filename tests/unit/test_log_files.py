"""Log files of processes that ended long ago are removed; all others stay."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import log_files

HOLD = """
import sys
from tasks.log_files import open_log
open_log(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""
DAY = 24 * 3600.0


def aged(path: Path, days: float) -> Path:
    path.touch()
    os.utime(path, (0, time.time() - days * DAY))
    return path


def test_only_old_files_of_ours_are_removed(tmp_path: Path) -> None:
    gone = [aged(tmp_path / name, 31) for name in ("worker-node-7-12.log", "run-login.site-345.log")]
    stay = [aged(tmp_path / name, 31) for name in ("notes.log", "worker-notes.log", "worker-a-1.log.gz")]
    stay.append(aged(tmp_path / "worker-node-7-13.log", 29))
    (tmp_path / "worker-node-7-14.log").symlink_to(aged(tmp_path / "target.txt", 31))
    (tmp_path / "worker-node-7-15.log").mkdir()
    os.mkfifo(tmp_path / "worker-node-7-16.log")
    others = {p.name for p in tmp_path.iterdir()} - {p.name for p in gone}
    assert log_files.prune(str(tmp_path)) == len(gone)
    assert {p.name for p in tmp_path.iterdir()} == others >= {p.name for p in stay}
    assert log_files.prune(str(tmp_path)) == log_files.prune(None) == 0
    assert log_files.prune(str(tmp_path / "missing")) == 0


def test_files_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(tmp_path / "worker-a-1.log", 31)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert log_files.prune(str(tmp_path)) == 0


def test_the_file_of_a_living_process_stays_until_it_ends(tmp_path: Path) -> None:
    """Whatever its age and its host: it is locked."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "\n"
    (file,) = tmp_path.iterdir()
    assert log_files.FILE.fullmatch(file.name)
    aged(file, 400)
    assert log_files.prune(str(tmp_path)) == 0 and file.exists()
    holder.communicate("")
    assert log_files.prune(str(tmp_path)) == 1 and not file.exists()


def test_a_process_has_one_file(tmp_path: Path) -> None:
    logger = logging.getLogger("prefect")
    before = list(logger.handlers)
    try:
        log_files.open_log(str(tmp_path), "run")
        log_files.open_log(str(tmp_path), "worker")
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("run-")
    finally:
        for handler in set(logger.handlers) - set(before):
            logger.removeHandler(handler)
            handler.close()
