"""The command line. A user's mistake is one line and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from flows import terminal
from made_core import __version__
from made_core.errors import MadeError, UserError

app = typer.Typer(
    name="made",
    help="Curate image-text shards: embed, cluster, deduplicate, account for every sample.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", "--ray_address",
                 help="host:port of a running Ray head. Default: MADE_RAY_ADDRESS, "
                 "else Ray on this machine."),
]  # fmt: skip
LogFolder = Annotated[
    str | None,
    typer.Option("--log-folder", "--log_folder",
                 help="Folder for the run's log and each worker's."),
]  # fmt: skip


def main() -> None:
    """The console script."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # so typer tells of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)  # click returns what a typer.Exit holds
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; a run goes on with the same command", INTERRUPTED)
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
    extends: Annotated[
        str | None,
        typer.Option(help="Id of a completed run, to whose corpus the new shards of --source are added: "
                     "its recipe holds where nothing else is said, and what it kept stays."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take over an output of another recipe's run.")
    ] = False,
    ray_address: RayAddress = None,
    log_folder: LogFolder = None,
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
    terminal.prepare(ray_address)
    from flows import preflight
    from flows.servers import database
    from made_core.ingest import discovery
    from made_core.io import paths
    from made_core.output.claim import check_claim
    from made_core.recipe_file import load

    wanted = load(
        recipe,
        {"sources": source or None, "output": output, "store": store, "extends": extends},
        set_ or [],
    )
    at = paths.located(wanted)
    found = discovery.expand(at.sources, at.admission.require_stats)
    preflight.check(at, (*found.admitted, *found.refused), log_folder)
    is_first = at.extends is None  # else what it takes from that run decides whose the output is
    if is_first:
        check_claim(at, replace, log_folder)
    with database() as url:
        if is_first:
            preflight.check_owner(url, at, replace)
        from flows.curate import curate as flow

        terminal.run(lambda: flow(wanted, replace, log_folder, quiet=False), log_folder)


@app.command()
def retry(
    run: Annotated[str, typer.Argument(help="The run's id: see made status.")],
    shard: Annotated[
        list[str] | None,
        typer.Option("--shard", help="A failed shard to try again; default: all that failed. "
                     "May be given several times."),
    ] = None,
    ray_address: RayAddress = None,
    log_folder: LogFolder = None,
) -> None:  # fmt: skip
    """Go on with a run after the cause of its failures is mended.

    Only the failed shards are embedded again, with the run's own recipe, and what depends on them
    is done again. A shard whose file changed is a new one: it is embedded whether named or not.
    Exit codes: those of curate; 0 too where nothing is to be retried.
    """
    terminal.prepare(ray_address)
    from flows import preflight

    preflight.check_ray()
    from flows import retry as again
    from flows.servers import database
    from flows.status import known
    from made_core.ledger.ledger import Ledger

    with database() as url, closing(Ledger.open(url)) as ledger:
        recipe = again.wanted(ledger, known(ledger, run), shard or [])
        if recipe is None:
            print(f"run {run} is completed: nothing to retry")
            return
        preflight.check(recipe, (), log_folder)
    terminal.run(lambda: again.retry(run, shard or [], log_folder, quiet=False), log_folder)


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(help="A run's id; without it, all runs.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 2 seconds, until RUN runs no more or Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, times in ISO 8601.")
    ] = False,
) -> None:
    """Show the runs of the ledger; or one run by stage, its slowest units and its failed shards.

    As JSON: {"runs": [...]} with id, state, output, store, holder, replaced, created_at,
    updated_at and error; for one RUN {"run": {...}, "stages": [...], "slowest": [...],
    "failures": [...]}. run has identity, recipe and summary too. A stage has stage, scope,
    planned, units (by state), samples, rate (samples a second), eta (seconds), started_at and
    finished_at. A unit has stage, key, shard, state, attempts, samples, host, seconds, error and
    traceback. A state `interrupted` is of a run whose process is gone.
    """
    from flows import status as view
    from flows.servers import database
    from made_core.ledger.ledger import Ledger

    if watch and (run is None or as_json):
        raise UserError("--watch: it takes a RUN, and goes without --json")
    with database() as url, closing(Ledger.open(url)) as ledger:
        if as_json:
            print(view.document(ledger, run))
        elif watch and run is not None:
            view.watch(ledger, run)
        else:
            view.show(ledger, run)


@app.command()
def sweep(
    run: Annotated[str, typer.Argument(help="The run's id: see made status.")],
    eps: Annotated[
        str | None,
        typer.Option(help="The eps to try, as in 0.01,0.02,0.05, up to the run's dedup.eps_max. "
                     "Default: eight even steps up to that."),
    ] = None,
) -> None:  # fmt: skip
    """Show what other eps would keep: a table here, a plot and examples in the output's sweep.html.

    From the pairs that the run stored: nothing is embedded, clustered or compared again. To have the
    output of another eps: made curate with --set dedup.eps=... and another --output, the same --store.
    """
    from flows.servers import database
    from flows.sweep import sweep as look
    from made_core.ledger.ledger import Ledger

    try:
        every = [float(text) for text in (eps or "").split(",") if text.strip()]
    except ValueError as error:
        raise UserError(f"--eps {eps}: expected numbers, as in 0.01,0.02 ({error})") from None
    with database() as url, closing(Ledger.open(url)) as ledger:
        look(ledger, run, every)


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
    samples: Annotated[int, typer.Option(min=20, help="Images to draw.")] = 400,
    shards: Annotated[int, typer.Option(min=1, help="Shards to put them in.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other images.")] = 0,
) -> None:
    """Write shards as img2dataset does, with planted duplicates, and the truth about them."""
    from made_core.errors import OutputError
    from made_core.sample.write import write_sample

    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty")
    write_sample(folder, samples=samples, shards=shards, seed=seed)
    print(f"{samples} samples in {shards} shards: {folder / 'shards'}")
    print(f"the truth about them: {folder / 'truth.json'}")
