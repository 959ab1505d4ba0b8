"""Folders that img2dataset has not finished, and the shards that are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from made_core.errors import SourceError
from made_core.ingest import finished
from made_core.sample.write import write_sample


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What img2dataset leaves at the end of a job of 4 shards."""
    folder = tmp_path_factory.mktemp("job")
    write_sample(folder, samples=40, shards=4, seed=1)
    return folder / "shards"


@pytest.fixture
def folder(job: Path, tmp_path: Path) -> Path:
    """A copy of `job` that a test can damage."""
    return Path(shutil.copytree(job, tmp_path / "shards"))


def _killed(folder: Path) -> None:
    (folder / "_tmp").mkdir()
    for number in (2, 3, 4):
        (folder / "_tmp" / f"{number}.feather").touch()
    for name in ("00002_stats.json", "00003_stats.json", "00003.tar"):
        (folder / name).unlink()


def _cut(folder: Path) -> None:
    tar = folder / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:-11_000])


def _stray(folder: Path) -> None:
    for suffix in (".tar", "_stats.json"):
        shutil.copy(folder / f"00000{suffix}", folder / f"99999999{suffix}")


def test_a_finished_folder(folder: Path) -> None:
    assert finished.unfinished(str(folder)) is None
    finished.check([str(folder), str(folder / "00001.tar"), f"{folder}/{{00000..00003}}.tar"], True)


def test_an_empty_tmp_folder(folder: Path) -> None:
    """Killed after the last shard: running img2dataset again removes it."""
    (folder / "_tmp").mkdir()
    with pytest.raises(SourceError, match="is not finished: _tmp is there"):
        finished.check([str(folder)], True)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_killed, {"00002": "no _stats.json", "00003": "missing", "00004": "missing"}),
        (_cut, {"00001": "the tar is cut off"}),
        (lambda f: (f / "00001_stats.json").unlink(), {"00001": "no _stats.json"}),
        (lambda f: (f / "00002.tar").unlink(), {"00002": "no tar"}),
        (lambda f: [p.unlink() for p in f.glob("00000*")], {"00000": "missing"}),
    ],
)
def test_unfinished_shards(folder: Path, damage: Callable[[Path], object], expected: dict[str, str]) -> None:
    damage(folder)
    found = finished.unfinished(str(folder))
    assert found is not None and found.shards == expected
    with pytest.raises(SourceError) as error:
        finished.check([str(folder)], True)
    assert all(f"{name} ({fault})" in str(error.value) for name, fault in expected.items())
    assert "\n" not in str(error.value)


def test_the_later_shards_of_a_job(folder: Path) -> None:
    """A run takes them: the others may be elsewhere. A hole between them is one all the same."""
    for path in folder.glob("00000*"):
        path.unlink()
    assert finished.unfinished(str(folder)) is not None
    assert finished.unfinished(str(folder), whole=False) is None
    for path in folder.glob("00002*"):
        path.unlink()
    found = finished.unfinished(str(folder), whole=False)
    assert found is not None and found.shards == {"00002": "missing"}


def test_the_message_names_shards_in_order_and_counts_the_others() -> None:
    """None are counted where all are named."""
    faults = {f"{n:05d}": "missing" for n in range(finished.SHOWN + 2)}
    text = str(finished.Unfinished("/in", False, faults))
    assert text.startswith("/in is not finished: unfinished shards: 00000 (missing), 00001 (missing), ")
    assert "00009 (missing), and 2 more; wait for img2dataset" in text
    text = str(finished.Unfinished("/in", True, {"00001": "no tar"}))
    assert "runs or was killed; unfinished shards: 00001 (no tar); wait" in text


def test_faults_of_several_kinds_are_in_the_order_of_names(folder: Path) -> None:
    (folder / "00003.tar").unlink()
    (folder / "00002_stats.json").unlink()
    _cut(folder)
    (folder / "_tmp").mkdir()
    (folder / "_tmp" / "5.feather").touch()
    found = finished.unfinished(str(folder))
    assert found is not None and list(found.shards.items()) == [
        ("00001", "the tar is cut off"), ("00002", "no _stats.json"), ("00003", "no tar"),
        ("00004", "missing"), ("00005", "missing"),
    ]  # fmt: skip


def test_two_zero_blocks_end_a_tar(folder: Path) -> None:
    """One is what a cut may leave; a tar may have no more than the two."""
    tar = folder / "00001.tar"
    data = tar.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512)
    tar.write_bytes(data + bytes(512))
    found = finished.unfinished(str(folder))
    assert found is not None and found.shards == {"00001": "the tar is cut off"}
    assert finished.unfinished(str(folder), whole=False) is None, "ends are not read"
    for whole in (data + bytes(1024), bytes(1024)):
        tar.write_bytes(whole)
        assert finished.unfinished(str(folder)) is None


def test_missing_shards_are_named_as_wide_as_the_others(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"00{path.name}"))
    for path in folder.glob("0000001*"):
        path.unlink()
    found = finished.unfinished(str(folder))
    assert found is not None and found.shards == {"0000001": "missing"}


def test_a_number_too_long_for_img2dataset_is_a_name(folder: Path) -> None:
    for path in list(folder.glob("00001*")):
        path.rename(path.with_name(path.name.replace("00001", "2026112803")))
    assert finished.unfinished(str(folder)) is None


def test_a_folder_without_shards(tmp_path: Path) -> None:
    """Whoever needs some says so; nothing is known to be missing."""
    (tmp_path / "notes.txt").touch()
    for whole in (True, False):
        assert finished.unfinished(str(tmp_path), whole=whole) is None


def test_a_stray_number_is_bounded(folder: Path) -> None:
    _stray(folder)
    found = finished.unfinished(str(folder))
    assert found is not None and len(found.shards) == finished.LISTED
    assert str(found).count("(missing)") == finished.SHOWN


def test_names_of_other_tools(folder: Path) -> None:
    """Without numbers there are no holes."""
    for path in list(folder.glob("00001*")):
        path.rename(path.with_name(path.name.replace("00001", "train-b")))
    assert finished.unfinished(str(folder)) is None


def test_without_stats_only_tmp_counts(folder: Path) -> None:
    for stats in folder.glob("*_stats.json"):
        stats.unlink()
    finished.check([str(folder)], require_stats=False)
    (folder / "_tmp").mkdir()
    with pytest.raises(SourceError, match="_tmp is there"):
        finished.check([str(folder)], require_stats=False)


def test_an_object_store_keeps_an_empty_tmp(s3: str, job: Path) -> None:
    """img2dataset does not remove `_tmp` on S3."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(f"{s3}/job")
    fs.put(str(job) + "/", root + "/", recursive=True)
    fs.pipe_file(f"{root}/_tmp/old", b"")
    assert finished.unfinished(f"{s3}/job") is None
    fs.pipe_file(f"{root}/_tmp/5.feather", b"x")
    found = finished.unfinished(f"{s3}/job")
    assert found is not None and found.shards == {"00004": "missing", "00005": "missing"}
