"""`made why`: the sample, what it represents, and uid prefixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import why
from made_core.errors import UserError
from made_core.output.decision_tables import SCHEMA
from tests.support.factories import make_shard, members

KEPT = "aaaaaaaa00000000"


def decision(row: int, **fields: Any) -> dict[str, Any]:
    plain = dict.fromkeys(SCHEMA.names)
    return {**plain, "uid": f"bbbbbbbb{row:08x}", "shard": "00000", "key": f"{row:08d}", "row": row,
            "kept": False, "cluster": 0, **fields}  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A kept sample that represents 12 others, and one that represents none."""
    sources = [(f"{n:08d}", members(n, f"caption [b]{n}[/b]\n", url=f"https://x/{n}")) for n in range(14)]
    shard = make_shard(tmp_path / "in", "00000", sources)
    rows = [decision(0, uid=KEPT, kept=True, output_shard="0", output_key="000")]
    rows += [
        decision(n, reason="near_duplicate", represented_by=KEPT, similarity=1 - n / 100)
        for n in range(1, 13)
    ]
    rows += [decision(13, uid="aaaaaaaa00000001", kept=True, output_shard="0", output_key="001")]
    out = tmp_path / "out"
    for folder in ("decisions", "shards"):
        (out / folder).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), out / "decisions" / "00000.parquet")
    listing = [
        {"uid": "", "key": f"00{n}", "caption": caption, "url": f"https://kept/{n}"}
        for n, caption in enumerate(["the [i]kept[/i] one", None])
    ]
    pq.write_table(pa.Table.from_pylist(listing), out / "shards" / "0.parquet")
    pq.write_table(pa.table({"shard": ["00000"], "url": [str(shard)]}), out / "accounts.parquet")
    (out / "summary.json").write_text(json.dumps({"extends": None}))
    return out


@pytest.fixture
def explain(output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def explain(uid: str) -> str:
        why.explain(str(output), uid)
        return capsys.readouterr().out

    return explain


def test_a_kept_sample_and_what_it_represents(explain: Any) -> None:
    text = explain(KEPT)
    assert '"the [i]kept[/i] one"' in text and '"https://kept/0"' in text
    assert "12 removed samples, the 10 most similar:" in text
    lines = [line.split("│")[2].split() for line in text.splitlines() if "near_duplicate" in line]
    assert lines == [[f"bbbbbbbb{n:08x}", "near_duplicate", f"{1 - n / 100:.6f}"] for n in range(1, 11)]


def test_a_kept_sample_that_represents_none(explain: Any) -> None:
    text = explain("aaaaaaaa00000001")
    assert "no removed sample" in text and "│ caption    │ none " in text


def test_a_removed_sample(explain: Any) -> None:
    text = explain("bbbbbbbb00000003")
    assert '"caption [b]3[/b]\\n"' in text and '"https://x/3"' in text
    assert "near_duplicate" in text and KEPT in text and "0.970000" in text


def test_an_output_without_shards(explain: Any, output: Path) -> None:
    """Caption and URL of a kept sample are then those of the input."""
    (output / "shards" / "0.parquet").unlink()
    (output / "summary.json").write_text(json.dumps({"extends": None, "shards": {"written": False}}))
    place = f"{output}, in its keep lists only (writing.shards is false)"
    text = explain(KEPT)
    assert '"caption [b]0[/b]\\n"' in text and place in text and f"{output}/shards" not in text
    assert place in explain("bbbbbbbb00000003")


@pytest.mark.parametrize("how", ["gone", "cut", "changed", "shorter", "remote"])
def test_an_input_that_is_not_available(explain: Any, output: Path, how: str) -> None:
    tar = output.parent / "in" / "00000.tar"
    if how == "gone":
        tar.unlink()
    elif how == "cut":
        tar.write_bytes(tar.read_bytes()[:3000])
    elif how == "remote":
        pq.write_table(pa.table({"shard": ["00000"], "url": ["s3://b/0.tar"]}), output / "accounts.parquet")
    else:
        names = {"changed": [f"new{n}" for n in range(14)], "shorter": ["00000000"]}[how]
        make_shard(tar.parent, "00000", [(name, members(1)) for name in names])
    text = explain("bbbbbbbb00000003")
    assert "│ caption        │ not available " in text and "│ url            │ not available " in text
    assert "near_duplicate" in text


def test_a_prefix_of_a_uid(explain: Any, output: Path) -> None:
    table = output / "decisions" / "00000.parquet"
    rows = pq.read_table(table).to_pylist()
    rows[13]["uid"] = "dddddddd00000001"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), table)
    for start in ("dddddddd", "dddddddd0000000"):
        assert "sample dddddddd00000001" in explain(start)


def test_a_sample_by_its_shard_and_key(explain: Any, output: Path) -> None:
    assert explain("00000/00000003") == explain(f"bbbbbbbb{3:08x}")
    with pytest.raises(UserError, match="no sample with key 7 in shard 00000 of"):
        why.explain(str(output), "00000/7")


def test_missing_accounts_are_named(output: Path) -> None:
    (output / "accounts.parquet").unlink()
    with pytest.raises(UserError, match=r"accounts\.parquet is missing: re-run"):
        why.explain(str(output), KEPT)


def test_an_invalid_prefix(output: Path) -> None:
    for start, words in [
        ("aaaaaaaa", rf"2 uids start with aaaaaaaa, such as {KEPT}, aaaaaaaa00000001: use a longer prefix"),
        ("aaaaaaa", r"aaaaaaa is not a uid in .*; the beginning of one needs at least 8 characters"),
        ("cccccccc", r"^no sample with uid cccccccc in \S*$"),
    ]:
        with pytest.raises(UserError, match=words):
            why.explain(str(output), start)
