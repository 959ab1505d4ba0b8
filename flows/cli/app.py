"""The application that the modules of this folder add their commands to, and the options that they share."""

from __future__ import annotations

from typing import Annotated

import typer

from made_core import __version__

app = typer.Typer(
    name="made",
    help="Curate image-text shards: embed, cluster, deduplicate, account for every sample.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs fill the terminal; others keep the line breaks of a docstring
)

RUN = "The run: its id (see made status), its output, or the id or address of a flow run of it in Prefect."
Run = Annotated[str, typer.Argument(help=RUN)]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", "--ray_address",
                 help="host:port of a running Ray head. Default: MADE_RAY_ADDRESS, "
                 "or a local Ray."),
]  # fmt: skip
LogFolder = Annotated[
    str | None,
    typer.Option("--log-folder", "--log_folder",
                 help="Folder for the log files of the run and its workers. "
                 "Default: MADE_LOG_FOLDER, or none are written."),
]  # fmt: skip


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
