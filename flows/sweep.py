"""`made sweep`: what other eps would keep, from the stored pairs of a finished run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from flows import generation
from flows.console import console
from made_core.dedup import inputs
from made_core.errors import UserError
from made_core.io import files, paths
from made_core.ledger.ledger import Ledger
from made_core.output.summary import Summary
from made_core.report import bands, eps_sweep, html, marks
from made_core.report.eps_sweep import Sweep


def sweep(ledger: Ledger, run_id: str, eps: Sequence[float], marks_file: str | None = None) -> Sweep:
    """Repeats the decisions of a run for each eps, in this process; writes `sweep.json` and `sweep.html`.

    Args:
        eps: values to try; empty: those of the marks, or even steps up to the run's eps_max.
        marks_file: path or URL of marks saved on the page of `made review`: the precision is shown.

    Returns:
        The content of sweep.json.

    Raises:
        UserError: no such run, a run that no longer owns its output, an eps above its eps_max, or marks
            that are not of this run.
        DamagedFile: a stored file is missing or damaged.
    """
    if eps and marks_file:
        raise UserError("--eps and --marks exclude each other: marks are of the eps of their review")
    found = generation.of(ledger, run_id)
    marked = marks.read(marks_file, found.summary) if marks_file else None
    every = bands.every(marked.eps if marked else eps, round(1 - found.bound, 12))
    known = inputs.read(found.corpus, found.resolve_files, found.recipe)
    steps = eps_sweep.sweep(found.corpus, known, every, marked)
    result = eps_sweep.document(found.summary, steps)
    page, table = (files.join(found.run.output, name) for name in paths.SWEEP)
    files.put_bytes(page, eps_sweep.render(found.summary, steps).encode())
    files.put_bytes(table, result.model_dump_json(indent=4).encode())
    _show(result, found.summary, page)
    return result


def _show(result: Sweep, summary: Summary, page: str) -> None:
    out = console()
    note = "in addition: not removed at the eps before. A larger eps may keep what a smaller one removes."
    table = Table(title=f"run {result.run}: what other eps would keep", caption=note)
    for name in ("eps", "kept", "share", "near-duplicates", "in addition"):
        table.add_column(name, justify="right")
    marked = any(step.precision for step in result.steps)
    if marked:
        for name in ("right of marked", "precision in addition", "up to it"):
            table.add_column(name, justify="right")
    for step in result.steps:
        mark = " (the run's)" if step.eps == summary.dedup.eps else ""
        cells = [f"{step.eps:g}{mark}", f"{step.kept:,}", f"{step.share:.2%}", f"{step.near_duplicates:,}"]
        cells.append(f"{step.in_addition:,}")
        if step.precision:
            cells.append(f"{step.precision.right:,} of {step.precision.marked:,}")
            cells += [html.interval(step.precision), html.interval(step.precision_up_to)]
        table.add_row(*cells)
    out.print(table)
    out.print(f"plot and examples: {page}", highlight=False, soft_wrap=True)
