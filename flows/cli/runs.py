"""`made status`, `made sweep`, `made review` and `made why`: the commands that look at runs."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from flows.cli.app import RUN, Run, app
from made_core.errors import UserError


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help=f"{RUN} Default: list all runs.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every 2 seconds until RUN ends or Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; times are ISO 8601.")
    ] = False,
) -> None:
    """List the runs of the ledger, or show the stages, slowest units and failures of one run.

    JSON: {"runs": [...]} with id, state, output, store, holder, replaced, created_at, updated_at
    and error; for one RUN {"run": {...}, "stages": [...], "slowest": [...], "failures": [...]},
    where run also has recipe_digest, recipe and summary. A stage has stage, scope, version,
    planned, units (by state), samples, rate (samples per second), eta (seconds), started_at and
    finished_at. A unit has stage, key, shard, state, attempts, samples, host, seconds, error and
    traceback. The state `interrupted` means that the process of the run has died.
    """
    from flows import status as view
    from flows.servers import database
    from flows.targets import find
    from made_core.ledger.ledger import Ledger

    if watch and (run is None or as_json):
        raise UserError("--watch needs a RUN and cannot be combined with --json")
    with database() as url, closing(Ledger.open(url)) as ledger:
        chosen = None if run is None else find(ledger, run).id
        if as_json:
            print(view.document(ledger, chosen))
        elif watch and chosen is not None:
            view.watch(ledger, chosen)
        else:
            view.show(ledger, chosen)


Eps = Annotated[
    str | None,
    typer.Option(help="Comma-separated eps, such as 0.01,0.02, up to the run's dedup.eps_max. "
                 "Default: eight even steps up to dedup.eps_max."),
]  # fmt: skip


@app.command()
def sweep(
    run: Run,
    eps: Eps = None,
    marks: Annotated[
        str | None,
        typer.Option(help="File saved on the page of made review: shows the precision at each of its eps, "
                     "with the 95 % interval."),
    ] = None,
) -> None:  # fmt: skip
    """Show how many samples other eps would keep: a table, and sweep.html in the output.

    Uses the pairs stored by the run: nothing is embedded or clustered again. To write the output for
    another eps: made curate with --set dedup.eps=..., another --output and the same --store.
    """
    from flows.servers import database
    from flows.sweep import sweep as look
    from flows.targets import find
    from made_core.ledger.ledger import Ledger

    every = _numbers(eps)
    with database() as url, closing(Ledger.open(url)) as ledger:
        look(ledger, find(ledger, run).id, every, marks)


@app.command()
def review(
    run: Run,
    eps: Eps = None,
    pairs: Annotated[
        int, typer.Option(help="Pairs to mark, at most, of what each eps removes in addition.")
    ] = 24,
) -> None:
    """Write review.html to the output: mark pairs as right or wrong, read the precision at each eps.

    The pairs are drawn at random from what each eps removes in addition to the one before. The page is
    one file and needs no server; the marks stay in the browser. Save them there, then made sweep RUN
    --marks FILE has the precision in its table.
    """
    from flows.review import write
    from flows.servers import database
    from flows.targets import find
    from made_core.ledger.ledger import Ledger

    every = _numbers(eps)
    with database() as url, closing(Ledger.open(url)) as ledger:
        write(ledger, find(ledger, run).id, every, pairs)


@app.command()
def why(
    uid: Annotated[str, typer.Argument(help="Uid, its first 8 characters, or SHARD/KEY as in the report.")],
    output: Annotated[str, typer.Option("--output", "--output-folder", help="The run's output folder.")],
) -> None:
    """Show why a sample was kept or dropped, and which kept sample represents it."""
    from flows.why import explain

    explain(output, uid)


def _numbers(eps: str | None) -> list[float]:
    """The values of --eps. Raises UserError."""
    try:
        return [float(text) for text in (eps or "").split(",") if text.strip()]
    except ValueError as error:
        raise UserError(
            f"--eps {eps}: expected comma-separated numbers, such as 0.01,0.02 ({error})"
        ) from None
