"""A run never writes to its input, whatever names and links lead there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from made_core.errors import OutputError, StorageFailed
from made_core.io import files, paths
from made_core.recipe import Recipe


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder with the shards of an earlier output, and `link`, a second name of it."""
    disk = tmp_path / "disk"
    (disk / "out" / "shards").mkdir(parents=True)
    (disk / "out" / "shards" / "0.tar").touch()
    (tmp_path / "link").symlink_to(disk)
    return disk


def check(source: Path, output: Path, store: Path | None = None, log_folder: str | None = None) -> None:
    """Checks a run over the tars of a folder."""
    recipe = Recipe(sources=(str(source),), output=str(output), store=None if store is None else str(store))
    tars = [entry.path for entry in os.scandir(source) if entry.name.endswith(".tar")]
    paths.keep_apart(paths.located(recipe), tars, log_folder)


@pytest.mark.parametrize(("source", "output"), [("disk", "link"), ("link", "disk"), ("disk", "disk")])
def test_the_shards_of_the_output_are_no_source(disk: Path, source: str, output: str) -> None:
    """With --replace, publishing would remove them."""
    with pytest.raises(OutputError, match="is inside the output"):
        check(disk.parent / source / "out" / "shards", disk.parent / output / "out")


def test_a_source_of_links_to_the_output(disk: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "0.tar").symlink_to(disk / "out" / "shards" / "0.tar")
    with pytest.raises(OutputError, match="is inside the output"):
        check(chosen, tmp_path / "link" / "out")
    check(chosen, tmp_path / "other")


@pytest.mark.parametrize("what", ["output", "store", "log folder"])
def test_nothing_is_written_into_the_source_through_a_link(disk: Path, tmp_path: Path, what: str) -> None:
    source, inner = disk / "out" / "shards", tmp_path / "link" / "out" / "shards" / "new"
    places: dict[str, Path] = {
        "output": tmp_path / "o",
        "store": tmp_path / "s",
        "log folder": tmp_path / "l",
    }
    check(source, places["output"], places["store"], str(places["log folder"]))
    places[what] = inner
    with pytest.raises(OutputError, match=f"{what} {inner} is inside the source folder {source}"):
        check(source, places["output"], places["store"], str(places["log folder"]))


def test_a_folder_that_a_node_lacks(tmp_path: Path) -> None:
    """A missing tar is an error of the data; a missing folder may be one of the node, and is retried."""
    files.check_folder(str(tmp_path / "0.tar"))
    with pytest.raises(StorageFailed, match=f"there is no folder {tmp_path}/gone on .*: is it mounted"):
        files.check_folder(str(tmp_path / "gone" / "0.tar"))
    files.check_folder("s3://bucket/gone/0.tar")
