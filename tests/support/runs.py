"""Starts complete runs and reads their ledger."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from made_core.ledger.ledger import Ledger
from made_core.settings import settings
from made_core.stages import BY_NAME

Curate = Callable[..., dict[str, Any]]  # the fixture `curate` of tests/e2e
MADE = str(Path(sys.executable).with_name("made"))


def events(url: str, run: str) -> dict[str, int]:
    """The total number of claims by stage of a run."""
    ledger = Ledger.open(url)
    try:
        return {
            s.stage: sum(
                e.kind == "claimed"
                for key in ledger.units.results(BY_NAME[s.stage], s.scope, None)
                for e in ledger.units.events(BY_NAME[s.stage], s.scope, key)
            )
            for s in ledger.progress.of(run)
        }
    finally:
        ledger.close()


def made_here(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`made ARGS` in this process: for commands that end before anything starts; saves seconds of imports."""
    from flows.cli.main import main

    out, err = StringIO(), StringIO()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["made", *args])
            for name, value in env.items():
                patch.setenv(name, value)
            settings.cache_clear()
            with pytest.raises(SystemExit) as end:
                main()
    finally:
        settings.cache_clear()
    assert isinstance(end.value.code, int)
    return subprocess.CompletedProcess(args, end.value.code, out.getvalue(), err.getvalue())
