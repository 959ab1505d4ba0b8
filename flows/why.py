"""`made why`: what became of a sample, in words."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from made_core import files
from made_core.errors import OutputError, UserError

MEANING = {
    "unreadable": "it could not be read",
    "repeated_uid": "an earlier sample has the same uid: the same upstream row",
    "exact_copy": "its picture's bytes equal another's",
    "near_duplicate": "a kept sample is within eps",
    "small_side": "its smallest side is below filters.min_side",
    "aspect_ratio": "its sides differ by more than filters.max_aspect",
    "few_words": "its caption has fewer words than filters.min_words",
    "few_chars": "its caption has fewer characters than filters.min_chars",
}


def explain(output: str, uid: str) -> None:
    """Prints the decisions on `uid` in the output of a run, and where its representative lies.

    Raises:
        OutputError: no finished run's output there.
        UserError: no sample of that uid.
    """
    output = files.absolute(output)
    folder = files.join(output, "decisions")
    if not files.exists(folder) or not files.exists(files.join(output, "summary.json")):
        raise OutputError(f"{output} holds no finished run (no summary.json, no decisions)")
    fs, path = files.filesystem(folder)
    decisions = ds.dataset(path, filesystem=fs, format="parquet")
    found = decisions.to_table(filter=ds.field("uid") == uid).to_pylist()
    if not found:
        raise UserError(f"no sample with uid {uid} in {output}")
    wanted = {r["represented_by"] for r in found} - {None}
    others = decisions.to_table(filter=ds.field("uid").isin(list(wanted)) & ds.field("kept"))
    by_uid = {r["uid"]: r for r in others.to_pylist()}
    urls = _urls(output)
    console = Console()
    for record in found:
        console.print(_table(record, by_uid.get(record["represented_by"]), urls, output))


def _urls(output: str) -> dict[str, str]:
    fs, path = files.filesystem(files.join(output, "accounts.parquet"))
    table = ds.dataset(path, filesystem=fs, format="parquet").to_table(["shard", "url"])
    return dict(zip(table["shard"].to_pylist(), table["url"].to_pylist(), strict=True))


def _table(record: dict[str, Any], kept: dict[str, Any] | None, urls: dict[str, str], output: str) -> Table:
    table = Table(show_header=False, title=f"sample {record['uid']}")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("lies in", _place(record, urls))
    if record["kept"]:
        table.add_row("outcome", "kept")
        table.add_row("output", _output(record, output))
        return table
    reason = record["reason"]
    table.add_row("outcome", f"dropped: {reason}, {MEANING[reason]}")
    if record["error"]:
        table.add_row("error", json.dumps(record["error"], ensure_ascii=False))
    if kept is None:
        table.add_row("represented by", "nobody")
        return table
    table.add_row("represented by", kept["uid"])
    table.add_row("similarity", f"{record['similarity']:.6f}")
    table.add_row("which lies in", _place(kept, urls))
    table.add_row("and output", _output(kept, output))
    return table


def _place(record: dict[str, Any], urls: dict[str, str]) -> str:
    return f"{urls[record['shard']]}, key {record['key']} (row {record['row']})"


def _output(record: dict[str, Any], output: str) -> str:
    return f"{output}/shards/{record['output_shard']}.tar, key {record['output_key']}"
