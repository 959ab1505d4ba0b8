"""Entry point of `made`. A user error is one line and exit code 2, never a traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

# Each module adds its commands to the application, in the order of `made --help`.
from flows.cli import curate, models, pbs, pbs_worker, runs, sample, service, store, trigger
from flows.cli.app import app
from made_core.errors import MadeError, UserError

__all__ = ["curate", "main", "models", "pbs", "pbs_worker", "runs", "sample", "service", "store", "trigger"]

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Entry point of the console script."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)  # click returns the code of a typer.Exit
    except (typer.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would break off the end of Ray
        _fail("interrupted: re-run to resume", INTERRUPTED)
    except UserError as error:
        _fail(str(error), MISTAKE)
    except MadeError as error:
        _fail(str(error), FAILED)
    except Exception as error:
        show: Callable[[], None] | None = getattr(error, "show", None)
        if show is None:  # not one of click's: a bug, reported with its traceback
            raise
        show()
        sys.exit(getattr(error, "exit_code", MISTAKE))


def _fail(text: str, code: int) -> None:
    print(f"made: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)
