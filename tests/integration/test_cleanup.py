"""Files of dead attempts are removed, locally and in an object store; all others stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from made_core.errors import CorruptShard, LeaseLost
from made_core.io import files, paths
from made_core.ledger import cleanup
from made_core.ledger.cleanup import Removed, clean_output, clean_scratch, clean_stage
from made_core.ledger.ledger import Ledger
from made_core.settings import Settings
from made_core.stages import EMBED, TABULATE, WRITE, EmbedOutput
from made_core.types import FileRef, Unit
from tests.support import s3

STAGE, SCOPE = EMBED, "scope"
KEYS = ("0" * 32, "1" * 32, "2" * 32, "3" * 32)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    with s3.server():
        boto3.client("s3").create_bucket(Bucket=s3.BUCKET)
        yield f"s3://{s3.BUCKET}/{tmp_path.name} [1]"  # moto keeps its state between servers


@pytest.fixture(autouse=True)
def units(ledger: Ledger) -> None:
    """Open units."""
    ledger.runs.begin("r1", "one", {}, "/out", "/store", "me", 60, False)
    ledger.units.put("r1", STAGE, SCOPE, KEYS, 3)


def claim(ledger: Ledger, key: str, lease: float = 60) -> Unit:
    [unit] = ledger.units.claim(STAGE, SCOPE, [key], 1, lease, "host1")
    return unit


def put(store: str, unit: Unit, data: bytes = b"rows") -> FileRef:
    return files.put_bytes(f"{paths.unit_url(store, STAGE, SCOPE, unit)}.npy", data)


def output(*refs: FileRef) -> EmbedOutput:
    """An output of one file or two."""
    return EmbedOutput(1, refs[0], refs[-1], 0, 0, 0)


def held(store: str) -> set[str]:
    return set(files.names(files.join(store, "embeddings", SCOPE)))


def names(*refs: FileRef) -> set[str]:
    return {ref.path.rsplit("/", 1)[1] for ref in refs}


def test_a_dead_attempts_files_are_removed(ledger: Ledger, store: str) -> None:
    dead = claim(ledger, KEYS[0], lease=0.01)
    put(store, dead, b"abandoned")
    part = files.join(store, "embeddings", SCOPE, f".{dead.name}.parquet.0123abcd.part")
    files.put_bytes(part, b"half")
    time.sleep(0.05)
    alive = claim(ledger, KEYS[0])
    ref = put(store, alive)
    assert (
        clean_stage(ledger, store, STAGE, SCOPE) == Removed()
    )  # it is running: either token may be the live one
    ledger.units.finish(alive, output(ref))
    assert clean_stage(ledger, store, STAGE, SCOPE) == Removed(2, len(b"abandoned" + b"half"))
    assert held(store) == names(ref) and files.read(ref.path) == b"rows"
    assert clean_stage(ledger, store, STAGE, SCOPE) == Removed()
    with pytest.raises(LeaseLost):
        ledger.units.finish(dead, output(FileRef("gone", 1, "", "")))


def test_all_other_files_stay(ledger: Ledger, store: str) -> None:
    """Files of done, retried, live, failed or unknown units, and files of no attempt."""
    done, again, live, failed = (claim(ledger, key) for key in KEYS)
    refs = [put(store, unit) for unit in (done, again, live, failed)]
    refs.append(put(store, Unit(9, STAGE.name, SCOPE, "f" * 32, 1, "c0ffee")))
    for name in ("notes.txt", f"{KEYS[0]}.npy", f"{KEYS[0]}.1-xyz.npy", f"{KEYS[0]}.1-c0ffee"):
        refs.append(files.put_bytes(files.join(store, "embeddings", SCOPE, name), b""))
    ledger.units.finish(done, output(refs[0]))
    ledger.units.fail(again, ValueError("a hiccup"), 60)
    ledger.units.fail(failed, CorruptShard("cut off"), 0)
    assert clean_stage(ledger, store, STAGE, SCOPE) == Removed()
    assert held(store) == names(*refs)


def test_files_put_by_a_live_attempt_meanwhile_stay(
    ledger: Ledger, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's answer may be outdated: the unit is reopened and claimed in between."""
    first = claim(ledger, KEYS[0])
    refs = [put(store, first)]
    ledger.units.finish(first, output(*refs))
    answer = ledger.units.results

    def results(*args: object) -> object:
        old = answer(STAGE, SCOPE, None)
        ledger.units.forget(STAGE, SCOPE, [KEYS[0]])
        refs.append(put(store, claim(ledger, KEYS[0])))
        return old

    monkeypatch.setattr(ledger.units, "results", results)
    assert clean_stage(ledger, store, STAGE, SCOPE) == Removed()
    assert held(store) == names(*refs) and len(refs) == 2


def test_nothing_to_clean_up(ledger: Ledger, store: str) -> None:
    assert clean_stage(ledger, store, STAGE, SCOPE) == Removed()
    for stage in (TABULATE, WRITE):  # in the output
        folder = paths.stage_folder(store, stage, SCOPE)
        files.put_bytes(files.join(folder, "a.1-c0ffee.tar"), b"")
        assert clean_stage(ledger, store, stage, SCOPE) == Removed()
        assert files.names(folder)


def test_an_output(store: str) -> None:
    output = files.join(store, "out")
    kept = (
        "summary.json",
        "keep.npy",
        ".hidden",
        "shards/00000000.tar",
        "store/embeddings/x/.a.12345678.part",
    )
    gone = (".parts/s/1-abcdef/shards/00000000.tar", ".keep.npy.0123abcd.part", ".parts/s/.x.0123abcd.part")
    for name in (*kept, *gone):
        files.put_bytes(files.join(output, name), b"12")
    assert clean_output(output) == Removed(3, 6)
    assert clean_output(output) == Removed()
    assert all(files.exists(files.join(output, name)) for name in kept)
    assert not any(files.exists(files.join(output, name)) for name in gone)
    assert not files.exists(files.join(output, ".parts"))


HOLD = """
import sys
from made_core.io import files
with files.scratch() as folder:
    (folder / "copy.tar").write_bytes(b"x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_scratch_of_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {**os.environ, "MADE_SCRATCH": str(tmp_path)}
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], env=environ, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    alive, dead = (
        tmp_path / (holder.stdout.readline().strip() if holder.stdout else "") for holder in holders
    )
    holders[1].kill()
    holders[1].wait()
    ours = [tmp_path / name for name in ("made-scratch-mine", "made-results", "made-scratch-12345678x")]
    young = tmp_path / "made-scratch-abcdefgh"
    for folder in (*ours, young):
        folder.mkdir()
    for folder in (alive, dead, *ours):
        os.utime(folder, (0, time.time() - 2 * cleanup.YOUNG))
    monkeypatch.setattr(cleanup, "settings", lambda: Settings(scratch=tmp_path))
    try:
        with monkeypatch.context() as other:
            other.setattr(os, "getuid", lambda: 4711)
            clean_scratch()
        assert dead.exists()  # another user's, to them
        clean_scratch()
        assert {p.name for p in tmp_path.iterdir()} == {p.name for p in (alive, young, *ours)}
    finally:
        holders[0].communicate("")
    assert not alive.exists()


def test_another_ledgers_files_stay(ledger: Ledger, store: str) -> None:
    """Two ledgers with the same units over one store: each removes the files of its own attempts."""
    unit = claim(ledger, KEYS[0])
    ref = put(store, unit)
    theirs = files.put_bytes(files.join(store, "embeddings", SCOPE, f"{KEYS[0]}.1-abcdef.npy"), b"theirs")
    ledger.units.finish(unit, output(ref))
    assert clean_stage(ledger, store, STAGE, SCOPE) == Removed()
    assert held(store) == names(ref, theirs)
