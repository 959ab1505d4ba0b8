"""What the commands that run a flow share: its environment and the printed summary."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from flows.console import console

if TYPE_CHECKING:  # it imports pydantic and storage, which `made --help` does not need
    from made_core.output.summary import Summary
    from made_core.recipe import Work

WITH_FAILURES, TERMINATED = 3, 143  # exit codes


def prepare(ray_address: str | None, log_folder: str | None = None) -> None:
    """Sets what Prefect, Ray and the settings read: call it before a flow is imported."""
    if ray_address:
        os.environ["MADE_RAY_ADDRESS"] = ray_address
    if log_folder:
        os.environ["MADE_LOG_FOLDER"] = log_folder
    # Prefect's console lines would break the progress bars.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_WRAP_LINES", "false")


def run(flow: Callable[[], Summary], work: Work) -> None:
    """Runs a flow and prints its summary. Exits with `WITH_FAILURES` if shards failed or were not read.

    Args:
        work: how the recipe splits the work.
    """
    from prefect.exceptions import CancelledRun

    from flows import deadline, progress, servers
    from flows.local_ray import early
    from made_core.settings import settings
    from tasks.log_files import open_log

    open_log(settings().log_folder, "run")
    print("made: starting Prefect and Ray", file=sys.stderr)
    with terminable(), servers.prefect(early(work)), progress.shown(), deadline.guarded():
        try:
            summary = flow()
        except CancelledRun:
            raise KeyboardInterrupt from None
    end(summary)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises SystemExit in the context, so that the servers which it started end with it.

    Prefect's flows hand the signal on to the handler that they find; the default one ends the process there.
    """

    def terminate(*_: object) -> None:
        print("made: terminated: re-run to resume", file=sys.stderr)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end(summary: Summary) -> None:
    """Prints a summary. Raises typer.Exit with `WITH_FAILURES` if shards are missing from it."""
    table(summary)
    if summary.lacks_shards:
        raise typer.Exit(WITH_FAILURES)


def table(summary: Summary) -> None:
    """Prints the counts of samples and the location of the output."""
    out = console()
    samples, total = summary.samples, max(1, summary.samples.in_)
    out.print(f"run {summary.run}: {summary.state.value.replace('_', ' ')}", highlight=False)
    shown = Table()
    shown.add_column("samples")
    shown.add_column("count", justify="right")
    shown.add_column("share", justify="right")
    rows = [("in", samples.in_), ("kept", samples.kept)]
    rows += [(f"dropped: {reason}", n) for reason, n in samples.dropped.items()]
    rows += [("unreadable", samples.unreadable)]
    for name, count in rows:
        shown.add_row(name, f"{count:,}", f"{count / total:.1%}")
    out.print(shown)
    promise = summary.promise
    out.print(
        f"shards: {summary.shards.sentence}; "
        f"{promise.checked:,} removed samples checked, {promise.broken} without a kept sample within eps",
        highlight=False,
    )
    if extends := summary.extends:
        out.print(
            f"extends run {extends.run}: its {extends.kept:,} kept samples stay and represent "
            f"{extends.represents:,} of the new ones: {extends.output}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if summary.recall:
        out.print(summary.recall.sentence, highlight=False)
    for warning in summary.warnings:
        out.print(f"note: {warning}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"output: {summary.output}", highlight=False, soft_wrap=True)
    out.print(f"report: {summary.output}/report.html", highlight=False, soft_wrap=True)
