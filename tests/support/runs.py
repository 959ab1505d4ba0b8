"""Starts complete runs and reads their ledger."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

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


def unset() -> dict[str, str]:
    """This process's environment without the settings of made and Prefect."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MADE_", "PREFECT_"))}


def made_here(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`made ARGS` in this process: saves seconds of imports, and those of its workers.

    Args:
        env: in the place of the settings of made and Prefect. A command that starts servers needs those of
            the session, and this process has to have joined the session's Ray.
    """
    from flows.cli.main import main

    words, out, err = [str(word) for word in args], StringIO(), StringIO()
    try:
        with (
            mock.patch.dict(os.environ, {**unset(), **env}, clear=True),
            mock.patch.object(sys, "argv", ["made", *words]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            settings.cache_clear()
            with pytest.raises(SystemExit) as end:
                main()
    finally:
        settings.cache_clear()
    assert isinstance(end.value.code, int)
    return subprocess.CompletedProcess(words, end.value.code, out.getvalue(), err.getvalue())
