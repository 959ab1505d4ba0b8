"""An empty SQLite database of Prefect: its migrations take ten seconds of CPU, so they run once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import prefect

from tests.support.checks import ROOT

NAME = f"prefect-{prefect.__version__}.db"  # as in a MADE_HOME


def copy(path: Path) -> None:
    """Copies the database to `path`, whose folder is made."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    kept = build / NAME
    with (build / "prefect.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not kept.exists():
            fresh = kept.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env={**os.environ, "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{fresh}"},
                stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
            fresh.rename(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kept, path)
