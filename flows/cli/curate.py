"""`made curate` and `made retry`: the commands that run the flow here."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import terminal
from flows.cli.app import LogFolder, RayAddress, Run, app

if TYPE_CHECKING:  # as in terminal
    from made_core.output.summary import Summary


@app.command()
def curate(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "--config-path", "--config_path",
            help="YAML file with the settings of the run; every field but sources and output has a default. "
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
                     "Default: the folder store in the output."),
    ] = None,
    extends: Annotated[
        str | None,
        typer.Option(help="A completed run: its id, its output, or a flow run of it in Prefect. Adds the new "
                     "shards of --source to its corpus: the recipe defaults to that run's, and the samples "
                     "that it kept stay."),
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

    Exit codes: 0 completed; 1 the run failed; 2 the request is not valid; 3 completed, but some shards
    failed or are not finished by img2dataset (they are named); 130 interrupted; 143 terminated. Re-run
    to resume.
    """
    terminal.prepare(ray_address, log_folder)
    from flows import preflight, request, unchanged
    from flows.servers import database
    from made_core.recipe_file import load
    from made_core.settings import settings

    wanted = load(
        recipe,
        {"sources": source or None, "output": output, "store": store, "extends": extends},
        set_ or [],
    )
    alone = wanted.extends is None
    at = preflight.located(wanted, replace, settings().log_folder) if alone else wanted
    with database() as url:
        if not alone:  # what is not given is that run's: the ledger is asked first
            at = request.checked(url, wanted, replace, deployed=False).recipe
        preflight.check_free(url, at)
        preflight.check_owner(url, at, replace)
        if alone and (done := unchanged.of_recipe(url, at, None)):
            print(f"made: nothing to do: run {done.run} is completed", file=sys.stderr)
            terminal.table(done)
            return
        preflight.check_gpu(at.encoder)

        def flow() -> Summary:
            from flows.curate import curate  # imports Prefect, while its server starts

            return curate(wanted, replace)

        terminal.run(flow, at.work)


@app.command()
def retry(
    run: Run,
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
    A shard whose file changed counts as a new shard and is always embedded. A run that failed, was
    cancelled or died goes on.

    Exit codes: as for curate; also 0 if there is nothing to retry.
    """
    terminal.prepare(ray_address, log_folder)
    from flows import preflight

    preflight.check_ray()
    from flows import retry as again
    from flows.holder import free_if_died
    from flows.servers import database
    from flows.targets import find
    from made_core.ledger.ledger import Ledger
    from made_core.settings import settings

    with database() as url, closing(Ledger.open(url)) as ledger:
        found = find(ledger, run)
        free_if_died(ledger, found)
        found = find(ledger, found.id)
        recipe = again.wanted(ledger, found, shard or [])
        if recipe is None:
            print(f"run {found.id} is completed: nothing to retry")
            return
        preflight.check(recipe, (), settings().log_folder)
        preflight.check_gpu(recipe.encoder)
    terminal.run(lambda: again.retry(found.id, shard or []), recipe.work)
