"""`made up`, `made down`, `made ps` and `made env`: the service on this machine."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from flows.cli.app import app


@app.command()
def up(
    listen: Annotated[
        str | None,
        typer.Option(help="Address on which PostgreSQL and the Prefect server listen. Default: 127.0.0.1, "
                     "this machine alone. Others need their passwords, but the traffic is not encrypted."),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once, each with a Ray that uses all cores. Default: 1; more wait."),
    ] = None,
    worker: Annotated[
        bool | None,
        typer.Option("--worker/--no-worker", help="Start a worker, which executes the runs. Default: yes."),
    ] = None,
) -> None:  # fmt: skip
    """Start the service on this machine: PostgreSQL, Prefect's server with its UI, the front door, a worker.

    Can be repeated: starts what is missing. The options and ports of the last start are kept. With
    MADE_DATABASE_URL or PREFECT_API_URL set, those servers are used and only the rest is started.
    """
    from flows.service import control, profile, state, tokens

    config = control.up(listen, runs, worker, lambda line: print(line, file=sys.stderr))
    said = profile.write(config)
    state.save_config(config)
    print(f"\nPrefect UI:  {config.prefect_url}")
    if config.has_server:
        print(f"login:       {config.auth_string}")
    if not config.worker:
        print("worker:      none; `made down`, then `made up --worker`, starts one")
    print(f"front door:  {config.front_door_url}  (made trigger; token: {tokens.token_file()})")
    for sentence in said:
        print(sentence)
    print(
        "\nStart a run in the UI (Deployments, curate, Run), or here:\n"
        "  prefect deployment run made/curate \\\n"
        """    --param 'recipe={"sources": ["/data/shards"], "output": "/data/curated"}'\n"""
        "made ps shows the processes, made status the runs, made down ends the service."
    )


@app.command()
def down() -> None:
    """End the service and the runs that its worker executes; PostgreSQL's data stay.

    A run that is interrupted resumes when it is started again with the same recipe.
    """
    from flows.service import control, profile, state

    was_up = control.down(print)
    if (config := state.config()) is not None:
        profile.deactivate(config)
    if not was_up:
        print("the service is not up")


@app.command()
def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show the processes of the service: exit code 0 if all of them do their work, else 1.

    JSON: {"up", "ready", "host", "ui", "front_door",
    "processes": [{"name", "phase", "pid", "restarts", "message", "log"}]}.
    """
    from flows.service import view

    if not view.show(as_json):
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print the variables with which a shell meets the service: eval "$(made env)".

    They hold passwords.
    """
    from flows.service import control

    for name, value in control.required().environment().items():
        print(f"export {name}={shlex.quote(value)}")
