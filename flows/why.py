"""`made why`: what became of a sample, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table
from rich.text import Text

from made_core.errors import OutputError, UserError
from made_core.filters import by_name
from made_core.io import files
from made_core.output import sample_facts
from made_core.output.sample_facts import SampleFacts

SHOWN = 10  # removed samples that a kept one represents
PREFIX = 8  # characters of a uid, at least, that may stand for the whole


def explain(output: str, uid: str) -> None:
    """Prints the decisions on `uid` in the output of a run, and where its representative is.

    Args:
        uid: of a sample, or its first `PREFIX` characters or more where no other has them.

    Raises:
        OutputError: no finished run's output there.
        UserError: no sample of that uid, or several.
    """
    output = files.absolute(output)
    decisions = _decisions(output)
    found = _found(decisions, uid)
    if not found:
        uid = _whole(decisions, uid, output)
        found = _found(decisions, uid)
    kept = _kept(output, {r["represented_by"] for r in found} - {None})
    urls = _urls(output)
    console = Console()
    for record in found:
        represented = _represented(decisions, uid) if record["kept"] else None
        shown = _table(record, kept.get(record["represented_by"]), output, represented, urls)
        console.print(shown)


def _found(decisions: ds.Dataset, uid: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = decisions.to_table(filter=ds.field("uid") == uid).to_pylist()
    return rows


def _whole(decisions: ds.Dataset, start: str, output: str) -> str:
    """The one uid that begins so. Raises UserError."""
    if len(start) < PREFIX:
        raise UserError(
            f"no sample with uid {start} in {output}; for a part of one, its first {PREFIX} or more will do"
        )
    wanted = pc.starts_with(ds.field("uid"), start)
    uids = pc.unique(decisions.to_table(["uid"], filter=wanted)["uid"]).to_pylist()
    if not uids:
        raise UserError(f"no sample with uid {start} in {output}")
    if len(uids) > 1:
        some = ", ".join(sorted(uids)[:3])
        raise UserError(f"{len(uids)} uids begin with {start}, such as {some}: give more of it")
    return str(uids[0])


def _represented(decisions: ds.Dataset, uid: str) -> list[dict[str, Any]]:
    """The removed samples that the kept one of `uid` represents."""
    wanted = ds.field("represented_by") == uid
    rows = decisions.to_table(["uid", "reason", "similarity"], filter=wanted).to_pylist()
    return sorted(rows, key=lambda r: (-(r["similarity"] or 0.0), r["uid"]))


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


def _table(
    record: dict[str, Any],
    standing: tuple[dict[str, Any], str] | None,
    output: str,
    represented: list[dict[str, Any]] | None,
    urls: dict[str, str],
) -> Table:
    table = Table(show_header=False, title=Text(f"sample {record['uid']}"))
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def row(name: str, value: str) -> None:
        table.add_row(name, Text(value))  # what is in brackets is no markup

    row("lies in", _place(record, urls))
    if record["kept"]:
        facts: SampleFacts | None = sample_facts.of_kept(output, record["output_shard"], record["output_key"])
    else:
        facts = sample_facts.of_input(urls[record["shard"]], record["row"], record["key"])
    for name in ("caption", "url"):
        row(name, "not available" if facts is None else _quoted(getattr(facts, name)))
    if record["kept"]:
        row("outcome", "kept")
        row("output", _output(record, output))
        for name, value in _standing(represented or []):
            row(name, value)
        return table
    reason = by_name(record["reason"])
    meaning = f", {reason.meaning}" if reason else ""  # None: of an output of another version
    row("outcome", f"dropped: {record['reason']}{meaning}")
    if record["error"]:
        row("error", _quoted(record["error"]))
    if standing is None:
        row("represented by", "nobody")
        return table
    kept, place = standing
    row("represented by", kept["uid"])
    row("similarity", f"{record['similarity']:.6f}")
    row("which lies in", _place(kept, _urls(place)))
    row("and output", _output(kept, place))
    return table


def _standing(represented: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What a kept sample represents: how many, and the most similar."""
    if not represented:
        yield "represents", "no removed sample"
        return
    more = f", the {SHOWN} most similar:" if len(represented) > SHOWN else ":"
    count = len(represented)
    yield "represents", f"{count:,} removed sample{'s' if count > 1 else ''}{more}"
    for other in represented[:SHOWN]:
        yield "", f"{other['uid']}  {other['reason']}  {other['similarity']:.6f}"


def _quoted(text: str | None) -> str:
    return "none" if text is None else json.dumps(text, ensure_ascii=False)


def _place(record: dict[str, Any], urls: dict[str, str]) -> str:
    return f"{urls[record['shard']]}, key {record['key']} (row {record['row']})"


def _output(record: dict[str, Any], output: str) -> str:
    return f"{output}/shards/{record['output_shard']}.tar, key {record['output_key']}"
