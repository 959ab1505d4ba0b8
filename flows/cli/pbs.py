"""`made pbs`: jobs of a PBS scheduler; `made models fetch`: weights for nodes without internet."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from flows.cli import runs
from flows.cli.app import app
from flows.cli.models import models

P = ParamSpec("P")

pbs = typer.Typer(no_args_is_help=True, help="Run on a PBS scheduler: docs/pbs.md.")
app.add_typer(pbs, name="pbs")


@pbs.callback()
def of_pbs() -> None:
    """Run on a PBS scheduler: docs/pbs.md."""


@pbs.command()
def script(
    recipe: Annotated[str, typer.Option("--recipe", help="YAML file with the settings of the run.")],
    select: Annotated[
        str, typer.Option("--select", help="Nodes and what of each: 2:ncpus=24:ngpus=4.")
    ],
    walltime: Annotated[str, typer.Option("--walltime", help="Time of the job: 12:00:00.")],
    queue: Annotated[
        str | None, typer.Option("--queue", help="Queue of the job. Default: the site's.")
    ] = None,
    place: Annotated[
        str | None, typer.Option("--place", help="Such as scatter: each chunk on a host of its own.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="Account that is charged.")] = None,
    directive: Annotated[
        list[str] | None,
        typer.Option("--directive", help="Further option of qsub: '-W umask=022', '-l filesystems=home'. "
                     "Can be repeated."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the job.")] = "made",
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Input shards, as for made curate. Can be repeated.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder or URL of the result.")] = None,
    store: Annotated[str | None, typer.Option("--store", help="Folder or URL that runs can share.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field of the recipe. Can be repeated.")
    ] = None,
) -> None:  # fmt: skip
    """Print a job script for a recipe: made pbs script ... > job.pbs, then qsub job.pbs.

    The job starts a Ray cluster over its nodes, runs made curate and exits with its code. Submitted again, it
    goes on where it stopped. The recipe, its sources, model and output are checked as made curate does; where
    only compute nodes have them, run this in an interactive job, or submit deployments/pbs/curate.pbs. Lines
    such as module load go into the printed script, before the line with source.
    """
    from flows import preflight
    from flows.pbs.script import Wish, job_script
    from made_core.errors import PathError, SourceError, UserError
    from made_core.recipe_file import load

    wanted = load(recipe, {"sources": source or None, "output": output, "store": store}, set_ or [])
    arguments = ["--recipe", str(Path(recipe).absolute())]
    for option, values in (("--source", source), ("--set", set_)):
        arguments += [word for value in values or [] for word in (option, value)]
    for option, value in (("--output", output), ("--store", store)):
        arguments += [option, value] if value is not None else []
    wish = Wish(select, walltime, name, place, queue, account, tuple(directive or ()))
    text = job_script(wish, arguments, Path.cwd())
    try:
        preflight.located(wanted, replace=False, log_folder=None, in_job=True)
    except (SourceError, PathError) as error:
        raise UserError(f"{error}; if only compute nodes have it, run this command in an interactive job, or "
                        "submit deployments/pbs/curate.pbs, which checks in the job") from None  # fmt: skip
    print(text, end="")


def _of_jobs(command: Callable[P, None]) -> Callable[P, None]:
    """A command that looks at a run, with the ledger that batch jobs keep."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from flows.pbs import ledger

        with ledger.opened():
            command(*args, **kwargs)

    return run


for _command in (runs.status, runs.sweep, runs.review):
    pbs.command(
        help=f"As made {_command.__name__}, for runs of batch jobs whose ledger is in MADE_SERVERS.\n\n"
        "On any host, also while a job runs. A job that starts in the meantime waits for the command."
    )(_of_jobs(_command))


@models.command()
def fetch(
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe whose encoder is fetched.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="open_clip's name, such as ViT-B-32.")] = None,
    pretrained: Annotated[
        str | None, typer.Option("--pretrained", help="open_clip's tag of the weights.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where the weights go, on a file system that the nodes share. "
                     "Default: the cache that open_clip reads."),
    ] = None,
) -> None:  # fmt: skip
    """Download the weights of an open_clip model, for nodes that have no internet: run it on a login node."""
    from flows.weights import fetch as download

    download(recipe, model, pretrained, folder)
