"""Publishing: the output holds the files of the last decisions, all of them and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from made_core.errors import DamagedFile
from made_core.io import files, paths, stored
from made_core.output import publish
from made_core.stages import TABULATE, WRITE, Stage
from made_core.types import FileRef, Unit

OLD, NEW = b"of older decisions", b"of newer decisions"  # of equal size


def attempt(output: str, stage: Stage[Any], name: str, data: bytes, attempt: int = 1) -> FileRef:
    """A file as an attempt leaves it."""
    unit = Unit(attempt, stage.name, "scope", name, attempt, f"{attempt:032x}")
    return files.put_bytes(paths.part_url(output, stage, "scope", name, unit), data)


def contents(output: str) -> dict[str, bytes]:
    """The files below the output, by their path in it."""
    root = Path(output)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def output(tmp_path: Path) -> str:
    """An output folder."""
    return str(tmp_path / "out")


def test_files_of_attempts_move_and_others_go(output: str) -> None:
    """Also those of an earlier publication and of lost attempts; run.json and the keep lists stay."""
    for name in ("shards/00000001.tar", "decisions/gone.parquet", *paths.SWEEP, paths.REVIEW, paths.SUMMARY):
        files.put_bytes(files.join(output, name), OLD)
    for name in (paths.RUN_MARK, paths.KEEP):
        files.put_bytes(files.join(output, name), OLD)
    attempt(output, WRITE, "00000000.tar", OLD)
    refs = [
        attempt(output, WRITE, "00000000.tar", NEW, 2),
        attempt(output, TABULATE, "00000.parquet", NEW),
    ]
    expected = {"shards/00000000.tar": NEW, "decisions/00000.parquet": NEW, "run.json": OLD, paths.KEEP: OLD}
    assert publish.present(output, refs, is_published=False)
    for _ in range(2):  # an interrupted one is repeated
        publish.publish(output, refs)
        assert contents(output) == expected and not Path(output, paths.PARTS).exists()
        assert publish.present(output, refs, is_published=False)


def test_an_interrupted_publication_goes_on(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary goes first: from then on the output counts as incomplete. Files are moved in slices."""
    monkeypatch.setattr(publish, "SLICE", 2)
    files.put_bytes(files.join(output, paths.SUMMARY), OLD)
    names = [f"{n:08}.tar" for n in range(5)]
    refs = [attempt(output, WRITE, name, name.encode()) for name in names]
    moved: list[str] = []

    def dies(source: str, target: str) -> None:
        if len(moved) == 3:
            raise KeyboardInterrupt
        assert not Path(output, paths.SUMMARY).exists()
        move(source, target)
        moved.append(target)

    move = files.move
    with monkeypatch.context() as patch:
        patch.setattr(stored, "STAT_THREADS", 1)
        patch.setattr(files, "move", dies)
        with pytest.raises(KeyboardInterrupt):
            publish.publish(output, refs)
    assert sorted(moved) == [files.join(output, "shards", name) for name in names[:3]]
    publish.publish(output, refs)
    assert contents(output) == {f"shards/{name}": name.encode() for name in names}


def test_a_file_of_other_decisions_is_not_taken_for_a_lost_one(output: str) -> None:
    """Of equal size, in its place: its content is compared, unless the output is of these decisions."""
    ref = attempt(output, WRITE, "00000000.tar", NEW)
    target = paths.published(output, ref.path)
    Path(ref.path).unlink()
    assert not publish.present(output, [ref], is_published=True)
    files.put_bytes(target, OLD[1:])
    assert not publish.present(output, [ref], is_published=True)
    files.put_bytes(target, OLD)
    assert publish.present(output, [ref], is_published=True)
    assert not publish.present(output, [ref], is_published=False)
    with pytest.raises(DamagedFile, match=r"00000000\.tar is missing and was not published"):
        publish.publish(output, [ref])
    files.put_bytes(target, NEW)
    publish.publish(output, [ref])
    assert contents(output) == {"shards/00000000.tar": NEW}


def test_a_cut_file_of_an_attempt_is_not_published(output: str) -> None:
    ref = attempt(output, WRITE, "00000000.tar", NEW)
    Path(ref.path).write_bytes(NEW[:-1])
    other = attempt(output, WRITE, "00000001.tar", NEW)
    assert not publish.present(output, [other, ref], is_published=False)
    with pytest.raises(DamagedFile):
        publish.publish(output, [other, ref])


@pytest.mark.parametrize(("hex_uids", "shards"), [(True, True), (False, False)])
def test_an_output_without_one_of_its_files_is_incomplete(output: str, hex_uids: bool, shards: bool) -> None:
    names = [paths.KEEP, paths.ACCOUNTS, paths.REPORT, paths.SUMMARY]
    if hex_uids:
        names.append(paths.KEEP_ARRAY)
    if shards:
        names.append(files.join("shards", paths.SIZES))
    for name in names:
        assert not publish.is_complete(output, hex_uids, shards)
        files.put_bytes(files.join(output, name), OLD)
    assert publish.is_complete(output, hex_uids, shards)
    for name in names:
        files.remove(files.join(output, name))
        assert not publish.is_complete(output, hex_uids, shards), name
        files.put_bytes(files.join(output, name), OLD)
