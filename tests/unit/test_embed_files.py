"""The files of embeddings: read back whole, or their damage is detected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from made_core.embed import encoder, metadata
from made_core.errors import DamagedFile
from made_core.io import files
from made_core.types import FileRef
from tests.support.embedding import Embedded, embed
from tests.support.factories import (
    members,
    put_embedded,
)


@pytest.fixture
def put(tmp_path: Path, builtin: encoder.Encoder) -> tuple[Embedded, FileRef, FileRef]:
    """A shard's embeddings and their files."""
    rows, table = embed(tmp_path, [(f"{i}", members(i, uid=f"{i}")) for i in range(6)], builtin)
    output = put_embedded(str(tmp_path / "store" / "x"), rows, table, stray=3)
    assert (output.samples, output.unreadable, output.warnings, output.stray) == (6, 0, 0, 3)
    return (rows, table), output.rows, output.metadata


def test_put_and_read(put: tuple[Embedded, FileRef, FileRef]) -> None:
    (rows, table), at_rows, at_table = put
    found = metadata.read_rows(at_rows)
    assert found.dtype == np.float16
    assert (found == rows).all()
    assert metadata.read_table(at_table, metadata.SCHEMA.names) == table
    assert metadata.read_table(at_table, ["uid", "row"]).column_names == ["uid", "row"]
    assert (Path(at_rows.path).name, Path(at_table.path).name) == ("x.npy", "x.parquet")


def flip(path: Path) -> None:
    """Changes a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Removes the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damage_is_detected(put: tuple[Embedded, FileRef, FileRef], damage: Callable[[Path], None]) -> None:
    _, at_rows, at_table = put
    for ref in (at_rows, at_table):
        damage(Path(ref.path))
    with pytest.raises(DamagedFile, match=r"x\.npy"):
        metadata.read_rows(at_rows)
    with pytest.raises(DamagedFile, match=r"x\.parquet"):
        metadata.read_table(at_table, ["uid"])


def test_a_remote_store(put: tuple[Embedded, FileRef, FileRef]) -> None:
    (rows, table), _, _ = put
    output = put_embedded("memory://store/y", rows, table)
    assert (metadata.read_rows(output.rows) == rows).all()
    assert metadata.read_table(output.metadata, metadata.SCHEMA.names) == table
    files.remove("memory://store")
    with pytest.raises(DamagedFile, match="is missing"):
        metadata.read_rows(output.rows)
