"""What `made ps` shows."""

from __future__ import annotations

import json

from rich.table import Table

from flows.console import console
from flows.service import logs, state
from flows.service.programs import FRONT_DOOR
from flows.service.state import Child, Phase


def show(as_json: bool) -> bool:
    """Prints the processes. Returns whether all of them do their work."""
    config, found, elsewhere = state.config(), state.processes(), state.elsewhere()
    is_up = found is not None and found.supervisor.is_alive
    children = [_checked(child) for child in found.children] if found and elsewhere is None else []
    ready = found is not None and is_up and found.are_ready
    if as_json:
        rows = [
            {"name": c.name, "phase": c.phase.value, "pid": c.process.pid if c.process else None,
             "restarts": c.restarts, "message": c.message, "log": str(logs.path_of(c.name))}
            for c in children
        ]  # fmt: skip
        up = config if is_up else None
        door = up.front_door_url if up and any(c.name == FRONT_DOOR for c in children) else None
        host = (found.host or None) if found else None
        shown = {"up": is_up, "ready": ready, "host": host, "ui": up.prefect_url if up else None}
        print(json.dumps({**shown, "front_door": door, "processes": rows}, indent=2))
        return ready
    out = console()
    if elsewhere is not None:
        out.print(elsewhere, soft_wrap=True, highlight=False)
        return False
    if config is None or found is None or not (is_up or any(c.process for c in children)):
        out.print("the service is not up: start it with `made up`")
        return False
    if not is_up:
        out.print("the supervisor has ended without the others: `made up` starts one that takes them over")
    table = Table()
    for title in ("process", "state", "pid", "restarts", "last end"):
        table.add_column(title)
    table.add_row("supervisor", "ready" if is_up else "ended", str(found.supervisor.pid), "", "")
    for c in children:
        table.add_row(
            c.name, c.phase.value, str(c.process.pid) if c.process else "", str(c.restarts), c.message
        )
    out.print(table)
    lines = [f"UI: {config.prefect_url}", f"logs: {state.folder() / 'logs'}"]
    if any(child.name == FRONT_DOOR for child in children):
        lines.insert(1, f"front door: {config.front_door_url}")
    if not config.worker:
        lines.append("no worker: started with --no-worker")
    out.print("\n".join(lines), soft_wrap=True, highlight=False)
    return ready


def _checked(child: Child) -> Child:
    """The child as it is now, should its supervisor have died."""
    if child.process is None or child.process.is_alive:
        return child
    return child.model_copy(update={"process": None, "phase": Phase.WAITING})
