"""`made why`: what became of a sample, in words."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from made_core.errors import OutputError, UserError
from made_core.filters import by_name
from made_core.io import files


def explain(output: str, uid: str) -> None:
    """Prints the decisions on `uid` in the output of a run, and where its representative lies.

    Raises:
        OutputError: no finished run's output there.
        UserError: no sample of that uid.
    """
    output = files.absolute(output)
    decisions = _decisions(output)
    found = decisions.to_table(filter=ds.field("uid") == uid).to_pylist()
    if not found:
        raise UserError(f"no sample with uid {uid} in {output}")
    kept = _kept(output, {r["represented_by"] for r in found} - {None})
    console = Console()
    for record in found:
        console.print(_table(record, kept.get(record["represented_by"]), output))


def _decisions(output: str) -> ds.Dataset:
    folder = files.join(output, "decisions")
    if not files.exists(folder) or not files.exists(files.join(output, "summary.json")):
        raise OutputError(f"{output} holds no finished run (no summary.json, no decisions)")
    fs, path = files.filesystem(folder)
    return ds.dataset(path, filesystem=fs, format="parquet")


def _kept(output: str, uids: set[str]) -> dict[str, tuple[dict[str, Any], str]]:
    """The kept samples of these uids and whose output has each: this one, or one that it extends."""
    place: str | None = output
    result: dict[str, tuple[dict[str, Any], str]] = {}
    while place and (missing := uids - result.keys()):
        wanted = ds.field("uid").isin(list(missing)) & ds.field("kept")
        for row in _decisions(place).to_table(filter=wanted).to_pylist():
            result[row["uid"]] = (row, place)
        extends = json.loads(files.read(files.join(place, "summary.json"))).get("extends")
        place = extends["output"] if extends else None
    return result


def _urls(output: str) -> dict[str, str]:
    fs, path = files.filesystem(files.join(output, "accounts.parquet"))
    table = ds.dataset(path, filesystem=fs, format="parquet").to_table(["shard", "url"])
    return dict(zip(table["shard"].to_pylist(), table["url"].to_pylist(), strict=True))


def _table(record: dict[str, Any], standing: tuple[dict[str, Any], str] | None, output: str) -> Table:
    table = Table(show_header=False, title=f"sample {record['uid']}")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("lies in", _place(record, output))
    if record["kept"]:
        table.add_row("outcome", "kept")
        table.add_row("output", _output(record, output))
        return table
    reason = by_name(record["reason"])
    meaning = f", {reason.meaning}" if reason else ""  # None: of an output of another version
    table.add_row("outcome", f"dropped: {record['reason']}{meaning}")
    if record["error"]:
        table.add_row("error", json.dumps(record["error"], ensure_ascii=False))
    if standing is None:
        table.add_row("represented by", "nobody")
        return table
    kept, place = standing
    table.add_row("represented by", kept["uid"])
    table.add_row("similarity", f"{record['similarity']:.6f}")
    table.add_row("which lies in", _place(kept, place))
    table.add_row("and output", _output(kept, place))
    return table


def _place(record: dict[str, Any], output: str) -> str:
    return f"{_urls(output)[record['shard']]}, key {record['key']} (row {record['row']})"


def _output(record: dict[str, Any], output: str) -> str:
    return f"{output}/shards/{record['output_shard']}.tar, key {record['output_key']}"
