"""`made review`: a page on which a person marks pairs of a finished run as right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from flows import generation
from made_core.dedup import inputs
from made_core.errors import UserError
from made_core.io import files, paths
from made_core.ledger.ledger import Ledger
from made_core.report import bands, review


def write(ledger: Ledger, run_id: str, eps: Sequence[float], pairs: int = bands.PAIRS) -> str:
    """Writes `review.html` to the output of a run; returns its URL.

    Args:
        eps: values to review; empty: even steps up to the run's eps_max.
        pairs: at most this many are drawn of what each eps removes in addition.

    Raises:
        UserError: no such run, a run that no longer owns its output, or an eps above its eps_max.
        DamagedFile: a stored file is missing or damaged.
    """
    if pairs < 1:
        raise UserError(f"--pairs is {pairs}, allowed: 1 or more")
    found = generation.of(ledger, run_id)
    every = bands.every(eps, round(1 - found.bound, 12))
    known = inputs.read(found.corpus, found.resolve_files, found.recipe)
    some = list(bands.of(found.corpus, known, every))
    drawn = review.drawn(found.corpus, known, some, pairs)
    page = files.join(found.run.output, paths.REVIEW)
    files.put_bytes(page, review.render(found.summary, some, drawn).encode())
    print_line = Console(highlight=False, soft_wrap=True).print
    if not drawn:
        print_line(f"no pairs to mark: up to eps {every[-1]:g} no near-duplicate is removed: {page}")
        return page
    print_line(f"{len(drawn):,} pairs to mark, of {sum(len(band.removed) for band in some):,}: {page}")
    print_line("open it in a browser; its saved marks are read by made sweep RUN --marks FILE", markup=False)
    return page
