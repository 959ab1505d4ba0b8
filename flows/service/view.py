"""What `made ps` shows."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from flows.service import state
from flows.service.state import Child, Phase


def show(as_json: bool) -> bool:
    """Prints the processes. Returns whether all of them do their work."""
    config, found = state.config(), state.processes()
    is_up = found is not None and found.supervisor.is_alive
    children = [_checked(child) for child in found.children] if found else []
    ready = found is not None and is_up and found.are_ready
    if as_json:
        rows = [
            {"name": c.name, "phase": c.phase.value, "pid": c.process.pid if c.process else None,
             "restarts": c.restarts, "message": c.message, "log": str(state.log_path(c.name))}
            for c in children
        ]  # fmt: skip
        url = config.prefect_url if config and is_up else None
        print(json.dumps({"up": is_up, "ready": ready, "ui": url, "processes": rows}, indent=2))
        return ready
    console = Console()
    if config is None or found is None:
        console.print("the service is not up: start it with `made up`")
        return False
    if not is_up:
        console.print(
            "the supervisor has ended without the others: `made up` starts one that takes them over"
        )
    table = Table()
    for title in ("process", "state", "pid", "restarts", "last end"):
        table.add_column(title)
    table.add_row("supervisor", "ready" if is_up else "ended", str(found.supervisor.pid), "", "")
    for c in children:
        table.add_row(
            c.name, c.phase.value, str(c.process.pid) if c.process else "", str(c.restarts), c.message
        )
    console.print(table)
    console.print(
        f"UI {config.prefect_url}   logs {state.folder() / 'logs'}", soft_wrap=True, highlight=False
    )
    return ready


def _checked(child: Child) -> Child:
    """The child as it is now, should its supervisor have died."""
    if child.process is None or child.process.is_alive:
        return child
    return child.model_copy(update={"process": None, "phase": Phase.WAITING})
