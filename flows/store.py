"""`made store`: what stores hold and which runs use it, as text or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.console import console
from made_core.errors import MadeError
from made_core.ledger import store_use
from made_core.ledger.ledger import Ledger
from made_core.ledger.store_use import ScopeUse, StoreUse

SHOWN = 3  # run ids in a row
NOTES = (
    "Nothing was removed. To free space, remove folders by hand, while no run is at work on this store.",
    "Runs of other ledgers may use the same store: what has no run here may have one there.",
    "A removed folder is computed again when a run that uses it is started again. A run that others extend "
    "must keep its folders: without them, --extends fails until that run has been started again.",
)


@dataclass(frozen=True)
class Unread:
    """A store of the ledger's runs that cannot be listed."""

    store: str
    error: str


@dataclass(frozen=True)
class Stores:
    """The stores that were asked for."""

    stores: tuple[StoreUse, ...]
    unread: tuple[Unread, ...]


def look(ledger: Ledger, store: str | None) -> Stores:
    """The use of a store; None: of all stores that runs of the ledger name.

    Raises:
        PathError: there is no such folder, or it is an output.
        StorageFailed: the storage of `store` or the ledger does not answer.
    """
    if store is not None:
        return Stores((store_use.of_store(ledger, store),), ())
    found, unread = [], []
    for name in dict.fromkeys(run.store for run in ledger.runs.all()):
        try:
            found.append(store_use.of_store(ledger, name))
        except MadeError as error:
            unread.append(Unread(name, str(error)))
    return Stores(tuple(found), tuple(unread))


def show(ledger: Ledger, store: str | None) -> None:
    """Prints a table for each store. Raises as `look`."""
    out, found = console(), look(ledger, store)
    for use in found.stores:
        _show(out, use)
    for each in found.unread:
        out.print(f"not listed: {each.error}", soft_wrap=True, markup=False, highlight=False)
    if not found.stores and not found.unread:
        out.print("no runs in the ledger: name a store")
    for note in NOTES if found.stores else ():
        out.print(note, highlight=False)


def document(ledger: Ledger, store: str | None) -> str:
    """What `show` prints, as JSON; see `made store --help`. Raises as `look`."""
    found = look(ledger, store)
    stores = [{"store": s.store, "files": s.files, "bytes": s.bytes, "scopes": [asdict(x) for x in s.scopes]}
              for s in found.stores]  # fmt: skip
    return json.dumps({"stores": stores, "unread": [asdict(x) for x in found.unread]}, indent=2, default=_iso)


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON serializable: {value!r}")


def _show(out: Console, use: StoreUse) -> None:
    out.print(f"store: {use.store}", soft_wrap=True, markup=False, highlight=False)
    table = Table()
    table.add_column("folder", overflow="fold")
    for title in ("files", "bytes", "units done"):
        table.add_column(title, justify="right")
    table.add_column("runs, the newest first", overflow="fold")
    table.add_column("last used")
    for scope in use.scopes:
        table.add_row(
            scope.folder, f"{scope.files:,}", f"{scope.bytes:,}", f"{scope.done:,}" if scope.scope else "",
            _runs(scope), "" if scope.used_at is None else f"{scope.used_at:%Y-%m-%d}",
        )  # fmt: skip
    unused = [scope for scope in use.scopes if not scope.runs]
    table.add_section()
    table.add_row("total", f"{use.files:,}", f"{use.bytes:,}")
    if unused:
        count, size = sum(s.files for s in unused), sum(s.bytes for s in unused)
        table.add_row("of these, no run", f"{count:,}", f"{size:,}")
    out.print(table)


def _runs(scope: ScopeUse) -> str:
    if not scope.runs:
        return "no run"
    named = [f"{run} (replaced)" if run in scope.replaced else run for run in scope.runs]
    text = _some(named)
    return f"{text}; extended by {_some(scope.extended_by)}" if scope.extended_by else text


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
