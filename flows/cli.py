"""The command line. A user's mistake is one line and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from made_core import __version__
from made_core.errors import MadeError, UserError

app = typer.Typer(
    name="made",
    help="Curate image-text shards: embed, cluster, deduplicate, account for every sample.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FAILED, MISTAKE, WITH_FAILURES, INTERRUPTED = 1, 2, 3, 130


def main() -> None:
    """The console script."""
    try:
        app(standalone_mode=False)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except (KeyboardInterrupt, SystemExit) as end:
        sys.exit(INTERRUPTED if isinstance(end, KeyboardInterrupt) else end.code)
    except UserError as error:
        _fail(str(error), MISTAKE)
    except MadeError as error:
        _fail(str(error), FAILED)
    except Exception as error:
        show: Callable[[], None] | None = getattr(error, "show", None)
        if show is None:  # not click's own: a defect, to be reported with its traceback
            raise
        show()
        sys.exit(getattr(error, "exit_code", MISTAKE))


def _fail(text: str, code: int) -> None:
    print(f"made: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"made {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Curate image-text shards: embed, cluster, deduplicate, account for every sample."""


@app.command()
def curate(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "--config-path", "--config_path",
            help="YAML file with the knobs of the run; every field has a default. "
            "Examples: deployments/recipes/.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source", "--shards_path", "--shards-path",
            help="Where shards lie: a folder, a tar, a glob, a brace pattern "
            "({00000..01279}.tar) or a URL (s3://...). May be given several times.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "--output-folder", "--output_folder",
                     help="Folder or URL of the result. Belongs to one run."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Folder or URL of embeddings, clusters and pairs, which runs may share. "
                     "Default: <output>/store."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take over an output of another recipe's run.")
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", "--ray_address",
                     help="host:port of a running Ray head. Default: MADE_RAY_ADDRESS, "
                     "else Ray on this machine."),
    ] = None,
    log_folder: Annotated[
        str | None,
        typer.Option("--log-folder", "--log_folder",
                     help="Folder for the run's log and each worker's."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field of the recipe: dedup.eps=0.05. "
                     "May be given several times."),
    ] = None,
) -> None:  # fmt: skip
    """Curate a data set: shards in, a smaller set of shards out.

    Exit codes: 0 done; 1 the run failed; 2 a mistake in what was asked; 3 done, but some shards
    failed (they are named, and in the ledger). Run it again to go on where it stopped.
    """
    from made_core import place, shards
    from made_core import recipe as recipes

    wanted = recipes.load(
        recipe,
        {"sources": source or None, "output": output, "store": store},
        set_ or [],
    )
    at = place.located(wanted)
    found = shards.expand(at.sources, at.admission.require_stats)
    place.keep_apart(at, (*found.admitted, *found.refused))
    if ray_address:
        os.environ["MADE_RAY_ADDRESS"] = ray_address
    summary = _run(wanted, replace, log_folder)
    _table(summary)
    if summary["shards"]["failed"]:
        raise typer.Exit(WITH_FAILURES)


def _run(recipe: Any, replace: bool, log_folder: str | None) -> dict[str, Any]:
    # Prefect reads these when it is imported: its own console lines would tear the progress bars.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_WRAP_LINES", "false")
    from flows import servers
    from flows.curate import curate as flow
    from tasks.units import open_log

    open_log(log_folder, "run")
    print("made: starting (Prefect and Ray take half a minute)", file=sys.stderr)
    with servers.prefect():
        summary: dict[str, Any] = flow(recipe, replace, log_folder, quiet=False)
    return summary


def _table(summary: dict[str, Any]) -> None:
    from rich.table import Table

    console = Console()
    samples, total = summary["samples"], max(1, summary["samples"]["in"])
    table = Table(title=f"run {summary['run']}: {summary['state'].replace('_', ' ')}")
    table.add_column("samples")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    rows = [("in", samples["in"]), ("kept", samples["kept"])]
    rows += [(f"dropped: {reason}", n) for reason, n in samples["dropped"].items()]
    rows += [("unreadable", samples["unreadable"])]
    for name, count in rows:
        table.add_row(name, f"{count:,}", f"{count / total:.1%}")
    console.print(table)
    shards = summary["shards"]
    console.print(
        f"shards: {shards['in']} in, {shards['failed']} failed, {shards['out']} out; "
        f"{summary['promise']['checked']:,} removed samples checked, "
        f"{summary['promise']['broken']} without a kept one within eps",
        highlight=False,
    )
    for warning in summary["warnings"]:
        console.print(f"note: {warning}", highlight=False, markup=False)
    console.print(f"output: {summary['output']}", highlight=False, soft_wrap=True)
    console.print(f"report: {summary['output']}/report.html", highlight=False, soft_wrap=True)


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="A run's id; without it, all runs.")] = None,
) -> None:
    """Show the runs of the ledger, or one run by stage with its failed shards."""
    from flows import status as view
    from flows.servers import database
    from made_core.state import Ledger

    with database() as url:
        ledger = Ledger.open(url)
        try:
            view.show(ledger, run)
        finally:
            ledger.close()


@app.command()
def why(
    uid: Annotated[str, typer.Argument(help="The sample's uid.")],
    output: Annotated[str, typer.Option("--output", "--output-folder", help="The run's output folder.")],
) -> None:
    """Say what became of a sample, which kept one stands for it, and where both lie."""
    from flows.why import explain

    explain(output, uid)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to make; must not exist or be empty.")],
    samples: Annotated[int, typer.Option(min=20, help="Pictures to draw.")] = 400,
    shards: Annotated[int, typer.Option(min=1, help="Shards to put them in.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other pictures.")] = 0,
) -> None:
    """Write shards as img2dataset does, with planted duplicates, and the truth about them."""
    from made_core import planted
    from made_core.errors import OutputError

    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty")
    planted.write(folder, samples=samples, shards=shards, seed=seed)
    print(f"{samples} samples in {shards} shards: {folder / 'shards'}")
    print(f"the truth about them: {folder / 'truth.json'}")
