"""`made store`: what takes the space of a store."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from flows.cli.app import app


@app.command()
def store(
    place: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="Folder or URL of a store. Default: all that runs name."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; times are ISO 8601.")
    ] = False,
) -> None:
    """Show what a store holds by stage and scope, the largest first, and which runs use it.

    Removes nothing: docs/operations.md ("Disk") says what can be removed by hand. Other ledgers may use
    the same store; only the runs of this one are known here.

    JSON: {"stores": [...], "unread": [{"store", "error"}]}. A store has store, files, bytes and scopes.
    A scope has folder (below the store), stage (null: none of this version), scope (null: no folder of
    one scope), files, bytes, done (units), runs and extended_by (ids, the newest first), replaced (those
    of runs whose output belongs to a later run) and used_at (null: no run of this ledger uses it).
    """
    from flows import store as view
    from flows.servers import database
    from made_core.ledger.ledger import Ledger

    with database() as url, closing(Ledger.open(url)) as ledger:
        if as_json:
            print(view.document(ledger, place))
        else:
            view.show(ledger, place)
