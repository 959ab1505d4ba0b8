"""Cleanup: removes files of dead attempts that the ledger does not reference, and unused scratch folders.

Cleaning a store is safe while other runs use it, because the files are listed BEFORE the ledger is
queried. The attempt that wrote a listed file had its token before the listing. If the ledger then says
that the unit is done with other files, this token is void; each attempt has its own token, so no later
commit can reference the file. Files of units that are open, running, failed or unknown are kept: a live
attempt may be about to commit them. A worker that lost its lease and still writes finds its part file
missing, which is an error that the ledger ignores; files that it writes later are removed by the next
cleanup. Files of attempts that are not in this ledger belong to another ledger that uses the same store
and are kept.
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import re
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from made_core.io import files, paths
from made_core.ledger.ledger import Ledger
from made_core.settings import settings
from made_core.stages import Stage

# Unit.name, which starts with the key, and a suffix. Part files start with a dot.
OF_ATTEMPT = re.compile(r"\.?((.+?)\.\d+-[0-9a-f]{6})\..+")
PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # of files.put
SCRATCH = re.compile(re.escape(files.SCRATCH) + r"[a-z0-9_]{8}")
YOUNG = 60.0  # seconds: a new scratch folder may not be locked yet


@dataclass(frozen=True)
class Removed:
    """The number and size of the removed files."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.files + other.files, self.bytes + other.bytes)


def clean_stage(ledger: Ledger, store: str, stage: Stage[Any], scope: str) -> Removed:
    """Removes files of a stage's done units that the ledger does not reference.

    Does nothing if the stage's files belong to the output: see `clean_output`.

    Raises:
        StorageFailed: the store or the ledger does not answer.
    """
    if stage.in_output:
        return Removed()
    folder = paths.stage_folder(store, stage, scope)
    try:
        listed = files.names(folder)
    except FileNotFoundError:
        return Removed()
    results = ledger.units.results(stage, scope, None)  # after the listing: see above
    done = {key: r.output for key, r in results.items() if r.output is not None}
    referenced = {posixpath.basename(ref.path) for output in done.values() for ref in output.refs}
    dead = {
        name: (match[1], match[2])
        for name in listed.keys() - referenced
        if (match := OF_ATTEMPT.fullmatch(name)) and match[2] in done
    }
    ours = ledger.units.names(stage, scope, sorted({key for _, key in dead.values()})) if dead else set()
    return _removed(folder, {name: listed[name] for name, (attempt, _) in dead.items() if attempt in ours})


def clean_output(output: str) -> Removed:
    """Removes attempts' files and part files of a published output; the caller must hold its run.

    Raises:
        StorageFailed: the storage does not answer.
    """
    attempts = files.join(output, ".parts")
    removed = Removed(*files.measure(attempts))
    files.remove(attempts)
    parts = {name: size for name, size in files.names(output).items() if PART.fullmatch(name)}
    return removed + _removed(output, parts)


def _removed(folder: str, names: dict[str, int]) -> Removed:
    for name in names:
        files.remove(files.join(folder, name))
    return Removed(len(names), sum(names.values()))


def clean_scratch() -> None:
    """Removes this user's scratch folders on this machine that no process uses."""
    base = settings().scratch or Path(tempfile.gettempdir())
    for folder in base.glob(f"{files.SCRATCH}*"):
        if SCRATCH.fullmatch(folder.name):
            with suppress(OSError):  # in use, removed by another process, or locks are not supported
                _clean_scratch(folder)


def _clean_scratch(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > YOUNG:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
