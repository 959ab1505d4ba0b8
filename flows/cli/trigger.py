"""`made trigger`: the command that starts a run on the service."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.app import app

INTERRUPTED = 130


@app.command()
def trigger(
    folder: Annotated[
        list[str], typer.Argument(help="The output of img2dataset: a folder or URL. Can be repeated.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="YAML file with the settings of the run. Default: all defaults."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Folder or URL of the result. Default: the recipe's.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Folder or URL of embeddings, clusters and pairs; runs can share it. "
            "Default: the recipe's, or the folder store in the output.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field of the recipe: dedup.eps=0.05. Can be repeated."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress until the run ends, and exit as made curate does.")
    ] = False,
) -> None:
    """Start a run on the service when an img2dataset job has ended; print the run's URL.

    A folder that img2dataset has not finished is refused, and its unfinished shards are named. The same
    shards with the same recipe and output start one run: if that is live or completed, its URL is printed;
    if it failed, crashed or was cancelled, a new run resumes it.

    Posts to the front door at MADE_FRONT_DOOR, with the token of MADE_TRIGGER_TOKEN_FILE; default: the
    service of this machine.

    Exit codes: 0 started, or there already; 1 Prefect's server or the storage does
    not answer; 2 the request is not valid, or no front door answers; with --wait also 1 the run failed or was
    cancelled, 3 completed but some shards failed or are not finished, 130 interrupted: the run continues.
    """
    from flows.service import trigger as ask

    wanted = ask.wanted(recipe, {"sources": folder, "output": output, "store": store}, set_ or [])
    with ask.door() as door:
        run, is_new = ask.start(door, wanted)
        print(f"{'started' if is_new else 'already there'}: run {run.name}, {run.state}", flush=True)
        print(run.url, flush=True)
        if not wait:
            return
        try:
            for run in ask.follow(door, run):  # noqa: B020  the first is `run` itself
                print(ask.line(run), flush=True)
        except KeyboardInterrupt:
            print("no longer waiting; the run continues")
            raise typer.Exit(INTERRUPTED) from None
    if code := ask.exit_code(run):
        raise typer.Exit(code)
    print(f"output: {run.output}")
