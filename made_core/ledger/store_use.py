"""What a store holds by stage and scope, and which runs of this ledger use it. Reads only.

The files are listed BEFORE the ledger is queried, because a run records its scopes before it writes: a scope
without a run had none when it was listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from made_core.errors import PathError
from made_core.io import files, paths
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.stages import STAGES

STAGE_OF = {stage.folder: stage.name for stage in STAGES if not stage.in_output}
CORPORA = "corpora"  # the folder of the tables that `Run.corpus` points to


@dataclass(frozen=True)
class ScopeUse:
    """A folder of the store, with what the ledger knows of it."""

    folder: str  # below the store: <folder of the stage>/<scope>, or a folder with files of its own
    stage: str | None  # None: no stage of this version writes there
    scope: str | None  # None: the files are not of one scope
    files: int
    bytes: int
    done: int  # units of this ledger, of all its runs
    runs: tuple[str, ...]  # ids of the runs that use it, the newest first
    replaced: tuple[str, ...]  # those of them whose output belongs to a later run
    extended_by: tuple[str, ...]  # ids of runs that extend one of these, directly or not, the newest first
    used_at: datetime | None  # latest change of one of these runs; None: no run of this ledger uses it


@dataclass(frozen=True)
class StoreUse:
    """A store; the largest folder is first."""

    store: str
    scopes: tuple[ScopeUse, ...]

    @property
    def files(self) -> int:
        """Their number in all folders."""
        return sum(scope.files for scope in self.scopes)

    @property
    def bytes(self) -> int:
        """Their size in all folders."""
        return sum(scope.bytes for scope in self.scopes)


@dataclass(frozen=True)
class _Listed:
    """A folder as it was listed."""

    top: str
    scope: str | None
    files: int
    bytes: int


def of_store(ledger: Ledger, store: str) -> StoreUse:
    """What the store at this folder or URL holds.

    Raises:
        PathError: there is no such folder, or it is the output of a run.
        StorageFailed: the storage or the ledger does not answer.
    """
    store = files.absolute(store)
    if files.exists(files.join(store, paths.RUN_MARK)):
        raise PathError(
            f"{store} is the output of a run; the default store is the folder {files.join(store, 'store')}"
        )
    try:
        listed = list(_listed(store))
    except (FileNotFoundError, NotADirectoryError):
        raise PathError(f"{store}: no such folder; `made status --json` shows the stores of runs") from None
    runs = ledger.runs.all()
    by_scope: dict[str, set[str]] = defaultdict(set)
    for used in ledger.runs.scopes():
        by_scope[used.scope].add(used.run_id)
    done = ledger.units.done([each.scope for each in listed if each.scope])
    folder = files.join(store, CORPORA) + "/"
    with_corpus = {run.id for run in runs if run.corpus and run.corpus.path.startswith(folder)}
    found = []
    for each in listed:
        direct = by_scope[each.scope] if each.scope else with_corpus if each.top == CORPORA else set()
        found.append(_used(each, direct, done.get(each.scope or "", 0), runs))
    return StoreUse(store, tuple(sorted(found, key=lambda use: (-use.bytes, use.folder))))


def _listed(store: str) -> Iterator[_Listed]:
    for top in files.folders(store):
        place = files.join(store, top)
        if sizes := files.names(place).values():
            yield _Listed(top, None, len(sizes), sum(sizes))
        for scope in files.folders(place):
            yield _Listed(top, scope, *files.measure(files.join(place, scope)))


def _used(each: _Listed, direct: set[str], done: int, runs: Sequence[Run]) -> ScopeUse:
    extending = _extending(direct, runs)
    of = [run for run in runs if run.id in direct | extending]
    return ScopeUse(
        folder=each.top if each.scope is None else f"{each.top}/{each.scope}",
        stage=STAGE_OF.get(each.top),
        scope=each.scope,
        files=each.files,
        bytes=each.bytes,
        done=done,
        runs=_ids(of, direct),
        replaced=_ids((run for run in of if run.replaced), direct),
        extended_by=_ids(of, extending - direct),
        used_at=max((run.updated_at for run in of), default=None),
    )


def _ids(runs: Iterable[Run], some: set[str]) -> tuple[str, ...]:
    return tuple(run.id for run in runs if run.id in some)


def _extending(direct: set[str], runs: Sequence[Run]) -> set[str]:
    """The runs that extend one of `direct`, or one that does."""
    found: set[str] = set()
    while more := {r.id for r in runs if r.recipe.get("extends") in direct | found} - found:
        found |= more
    return found
