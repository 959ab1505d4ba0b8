"""What dead attempts left: files that no row names, scratch folders that no process holds.

Why cleaning a store harms nobody, though runs share it and others work in it: the files are listed
FIRST, the ledger is asked second. A listed file's attempt had its token before the listing. Where the
ledger then says that the unit is done, and with other files, that attempt's token is void: tokens are
drawn for each attempt, so no later commit can name the file either. Units that are open, running,
failed or unknown are left alone: a live attempt may have put the file and be about to commit it. A
worker that lost its lease and still writes will find its part file gone, which is one more error that
the ledger drops; what it puts afterwards waits for the next cleanup. Files of attempts that this ledger
did not make belong to another ledger over the same store: left alone.
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

# Unit.name, which begins with the key, and a suffix; hidden: a part file.
OF_ATTEMPT = re.compile(r"\.?((.+?)\.\d+-[0-9a-f]{6})\..+")
PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # of files.put
SCRATCH = re.compile(re.escape(files.SCRATCH) + r"[a-z0-9_]{8}")
YOUNG = 60.0  # seconds in which a scratch folder may be there and not yet be held


@dataclass(frozen=True)
class Removed:
    """What was removed."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.files + other.files, self.bytes + other.bytes)


def clean_stage(ledger: Ledger, store: str, stage: Stage[Any], scope: str) -> Removed:
    """Removes the files of a stage's done units that the units' rows do not name.

    Nothing where the files belong to the output: `clean_output` removes those.

    Raises:
        StorageFailed: the store or the ledger does not answer.
    """
    if stage.in_output:
        return Removed()
    folder = paths.stage_folder(store, stage, scope)
    try:
        found = files.names(folder)
    except FileNotFoundError:
        return Removed()
    results = ledger.units.results(stage, scope, None)  # after the listing: see above
    done = {key: r.output for key, r in results.items() if r.output is not None}
    named = {posixpath.basename(ref.path) for output in done.values() for ref in output.refs}
    dead = {
        name: (match[1], match[2])
        for name in found.keys() - named
        if (match := OF_ATTEMPT.fullmatch(name)) and match[2] in done
    }
    ours = ledger.units.names(stage, scope, sorted({key for _, key in dead.values()})) if dead else set()
    return _removed(folder, {name: found[name] for name, (attempt, _) in dead.items() if attempt in ours})


def clean_output(output: str) -> Removed:
    """Removes attempts' files and part files of a published output; the caller holds its run.

    Raises:
        StorageFailed: storage does not answer.
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
    """Removes this user's scratch folders on this machine that no process holds."""
    base = settings().scratch or Path(tempfile.gettempdir())
    for folder in base.glob(f"{files.SCRATCH}*"):
        if SCRATCH.fullmatch(folder.name):
            with suppress(OSError):  # another process cleans it, or it cannot be locked here
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
