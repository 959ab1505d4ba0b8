"""`made sweep`: what other eps would keep, from the stored pairs of a finished run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from flows import generation
from made_core.dedup import inputs
from made_core.io import files, paths
from made_core.ledger.ledger import Ledger
from made_core.output.summary import Summary
from made_core.report import eps_sweep
from made_core.report.eps_sweep import Sweep


def sweep(ledger: Ledger, run_id: str, eps: Sequence[float]) -> Sweep:
    """Repeats the decisions of a run for each eps, in this process; writes `sweep.json` and `sweep.html`.

    Args:
        eps: values to try; empty: even steps up to the run's eps_max.

    Returns:
        The content of sweep.json.

    Raises:
        UserError: no such run, a run that no longer owns its output, or an eps above its eps_max.
        DamagedFile: a stored file is missing or damaged.
    """
    found = generation.of(ledger, run_id)
    every = eps_sweep.every(eps, round(1 - found.bound, 12))
    known = inputs.read(found.corpus, found.resolve_files, found.recipe)
    steps = eps_sweep.sweep(found.corpus, known, every)
    result = eps_sweep.document(found.summary, steps)
    page, table = (files.join(found.run.output, name) for name in paths.SWEEP)
    files.put_bytes(page, eps_sweep.render(found.summary, steps).encode())
    files.put_bytes(table, result.model_dump_json(indent=4).encode())
    _show(result, found.summary, page)
    return result


def _show(result: Sweep, summary: Summary, page: str) -> None:
    console = Console()
    table = Table(title=f"run {result.run}: what other eps would keep")
    for name in ("eps", "kept", "share", "near-duplicates"):
        table.add_column(name, justify="right")
    for step in result.steps:
        mark = " (the run's)" if step.eps == summary.dedup.eps else ""
        table.add_row(
            f"{step.eps:g}{mark}", f"{step.kept:,}", f"{step.share:.2%}", f"{step.near_duplicates:,}"
        )
    console.print(table)
    console.print(f"plot and examples: {page}", highlight=False, soft_wrap=True)
