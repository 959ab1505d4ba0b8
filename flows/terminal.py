"""What the commands that run a flow share: its surroundings, and its summary for a person to read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

WITH_FAILURES = 3  # exit code


def prepare(ray_address: str | None) -> None:
    """Sets what Prefect and Ray read when they are imported: call it before a flow is."""
    if ray_address:
        os.environ["MADE_RAY_ADDRESS"] = ray_address
    # Its own console lines would tear the progress bars.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_WRAP_LINES", "false")


def run(flow: Callable[[], dict[str, Any]], log_folder: str | None) -> None:
    """Runs a flow and shows its summary; the exit code says whether shards failed."""
    from flows import servers
    from tasks.units import open_log

    open_log(log_folder, "run")
    print("made: starting (Prefect and Ray take half a minute)", file=sys.stderr)
    with servers.prefect():
        summary = flow()
    table(summary)
    if summary["shards"]["failed"]:
        raise typer.Exit(WITH_FAILURES)


def table(summary: dict[str, Any]) -> None:
    """Prints what became of the samples, and where it lies."""
    from made_core.dedup.pair_recall import sentence

    console = Console()
    samples, total = summary["samples"], max(1, summary["samples"]["in"])
    shown = Table(title=f"run {summary['run']}: {summary['state'].replace('_', ' ')}")
    shown.add_column("samples")
    shown.add_column("count", justify="right")
    shown.add_column("share", justify="right")
    rows = [("in", samples["in"]), ("kept", samples["kept"])]
    rows += [(f"dropped: {reason}", n) for reason, n in samples["dropped"].items()]
    rows += [("unreadable", samples["unreadable"])]
    for name, count in rows:
        shown.add_row(name, f"{count:,}", f"{count / total:.1%}")
    console.print(shown)
    shards = summary["shards"]
    console.print(
        f"shards: {shards['in']} in, {shards['failed']} failed, {shards['out']} out; "
        f"{summary['promise']['checked']:,} removed samples checked, "
        f"{summary['promise']['broken']} without a kept one within eps",
        highlight=False,
    )
    if extends := summary["extends"]:
        console.print(
            f"extends run {extends['run']}, whose {extends['kept']:,} kept samples stay and stand for "
            f"{extends['stand_for']:,} of the new: {extends['output']}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if summary.get("recall"):
        console.print(sentence(summary["recall"]), highlight=False)
    for warning in summary["warnings"]:
        console.print(f"note: {warning}", highlight=False, markup=False)
    console.print(f"output: {summary['output']}", highlight=False, soft_wrap=True)
    console.print(f"report: {summary['output']}/report.html", highlight=False, soft_wrap=True)
