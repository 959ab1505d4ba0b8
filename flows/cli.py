"""The command line. A user error is one line and exit code 2, never a traceback."""

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
                 "or a local Ray."),
]  # fmt: skip
LogFolder = Annotated[
    str | None,
    typer.Option("--log-folder", "--log_folder",
                 help="Folder for the log files of the run and its workers."),
]  # fmt: skip


def main() -> None:
    """Entry point of the console script."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)  # click returns the code of a typer.Exit
    except (typer.Abort, KeyboardInterrupt):
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
            help="YAML file with the settings of the run; every field has a default. "
            "Examples: deployments/recipes/.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source", "--shards_path", "--shards-path",
            help="Input shards: a folder, a tar, a glob, a brace pattern "
            "({00000..01279}.tar) or a URL (s3://...). Can be repeated.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "--output-folder", "--output_folder",
                     help="Folder or URL of the result. Each output belongs to one run."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Folder or URL of embeddings, clusters and pairs; runs can share it. "
                     "Default: <output>/store."),
    ] = None,
    extends: Annotated[
        str | None,
        typer.Option(help="Id of a completed run. Adds the new shards of --source to its corpus: the "
                     "recipe defaults to that run's, and the samples that it kept stay."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take over an output that belongs to a run of another recipe.")
    ] = False,
    ray_address: RayAddress = None,
    log_folder: LogFolder = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field of the recipe: dedup.eps=0.05. "
                     "Can be repeated."),
    ] = None,
) -> None:  # fmt: skip
    """Curate a data set: read shards, write a smaller set of shards.

    Exit codes: 0 completed; 1 the run failed; 2 invalid arguments, recipe or environment; 3 completed,
    but some shards failed (listed in the output and in the ledger). Re-run to resume.
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
    is_first = at.extends is None  # otherwise the owner depends on the recipe of the extended run
    if is_first:
        check_claim(at, replace, log_folder)
    with database() as url:
        if is_first:
            preflight.check_owner(url, at, replace)
        from flows.curate import curate as flow

        terminal.run(lambda: flow(wanted, replace, log_folder, quiet=False), log_folder)


@app.command()
def retry(
    run: Annotated[str, typer.Argument(help="Run id: see made status.")],
    shard: Annotated[
        list[str] | None,
        typer.Option("--shard", help="A failed shard to retry. Default: all failed shards. "
                     "Can be repeated."),
    ] = None,
    ray_address: RayAddress = None,
    log_folder: LogFolder = None,
) -> None:  # fmt: skip
    """Retry the failed shards of a run after the cause is fixed.

    Embeds the failed shards again with the run's own recipe and recomputes what depends on them.
    A shard whose file changed counts as a new shard and is always embedded.
    Exit codes: as for curate; also 0 if there is nothing to retry.
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
    run: Annotated[str | None, typer.Argument(help="Run id. Default: list all runs.")] = None,
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
    from made_core.ledger.ledger import Ledger

    if watch and (run is None or as_json):
        raise UserError("--watch needs a RUN and cannot be combined with --json")
    with database() as url, closing(Ledger.open(url)) as ledger:
        if as_json:
            print(view.document(ledger, run))
        elif watch and run is not None:
            view.watch(ledger, run)
        else:
            view.show(ledger, run)


@app.command()
def sweep(
    run: Annotated[str, typer.Argument(help="Run id: see made status.")],
    eps: Annotated[
        str | None,
        typer.Option(help="Comma-separated eps to try, such as 0.01,0.02, up to the run's dedup.eps_max. "
                     "Default: eight even steps up to dedup.eps_max."),
    ] = None,
) -> None:  # fmt: skip
    """Show how many samples other eps would keep: a table, and sweep.html in the output.

    Uses the pairs stored by the run: nothing is embedded or clustered again. To write the output for
    another eps: made curate with --set dedup.eps=..., another --output and the same --store.
    """
    from flows.servers import database
    from flows.sweep import sweep as look
    from made_core.ledger.ledger import Ledger

    try:
        every = [float(text) for text in (eps or "").split(",") if text.strip()]
    except ValueError as error:
        raise UserError(
            f"--eps {eps}: expected comma-separated numbers, such as 0.01,0.02 ({error})"
        ) from None
    with database() as url, closing(Ledger.open(url)) as ledger:
        look(ledger, run, every)


@app.command()
def why(
    uid: Annotated[str, typer.Argument(help="Uid of the sample, or at least its first 8 characters.")],
    output: Annotated[str, typer.Option("--output", "--output-folder", help="The run's output folder.")],
) -> None:
    """Show why a sample was kept or dropped, and which kept sample represents it."""
    from flows.why import explain

    explain(output, uid)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to create; if it exists, it must be empty.")],
    samples: Annotated[int, typer.Option(min=20, help="Number of samples.")] = 400,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Write synthetic shards in img2dataset's format, with planted duplicates and the ground truth."""
    from made_core.errors import OutputError
    from made_core.sample.write import write_sample

    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty")
    write_sample(folder, samples=samples, shards=shards, seed=seed)
    print(f"{samples} samples in {shards} shards: {folder / 'shards'}")
    print(f"ground truth: {folder / 'truth.json'}")
