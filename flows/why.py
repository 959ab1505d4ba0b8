"""`made why`: the decision on a sample."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.table import Table
from rich.text import Text

from flows.console import console
from made_core import filters
from made_core.errors import OutputError, UserError
from made_core.io import files, paths
from made_core.output import sample_facts
from made_core.output.decision_row import Decision
from made_core.output.sample_facts import SampleFacts
from made_core.output.summary import NO_SHARDS, has_shards

SHOWN = 10  # represented samples listed
PREFIX = 8  # least characters of an abbreviated uid

Urls = Mapping[str, str]  # input shard's id -> URL


@dataclass(frozen=True)
class Represented:
    """A removed sample that a kept one represents."""

    uid: str
    reason: str
    similarity: float


@dataclass(frozen=True)
class Representative:
    """A kept sample, and the output that contains it: this one or one that it extends."""

    decision: Decision
    output: str


def explain(output: str, uid: str) -> None:
    """Prints the decisions on `uid` in the output of a run, with its representative.

    Args:
        uid: of a sample, or a unique prefix of at least `PREFIX` characters.

    Raises:
        OutputError: no finished run's output there.
        UserError: no sample with that uid, or several.
    """
    output = files.absolute(output)
    decisions = _decisions(output)
    found = _found(decisions, uid)
    if not found and "/" in uid:
        uid = _of_key(decisions, uid, output)
        found = _found(decisions, uid)
    if not found:
        uid = _completed(decisions, uid, output)
        found = _found(decisions, uid)
    kept = _kept(output, {d.represented_by for d in found if d.represented_by is not None})
    urls = _urls(output)
    out = console()
    for decision in found:
        if decision.kept:
            out.print(_kept_table(decision, output, _represented(decisions, uid), urls))
        else:
            representative = kept.get(decision.represented_by) if decision.represented_by else None
            out.print(_dropped_table(decision, representative, urls, _summary(output).get("filters", {})))


def _found(decisions: ds.Dataset, uid: str) -> list[Decision]:
    rows = decisions.to_table(filter=ds.field("uid") == uid).to_pylist()
    return [Decision.from_row(row) for row in rows]


def _of_key(decisions: ds.Dataset, name: str, output: str) -> str:
    """The uid of the sample `<shard>/<key>`, as the report names it. Raises UserError."""
    shard, _, key = name.rpartition("/")
    wanted = (ds.field("shard") == shard) & (ds.field("key") == key)
    uids = decisions.to_table(["uid"], filter=wanted)["uid"].to_pylist()
    if not uids:
        raise UserError(f"no sample with key {key} in shard {shard} of {output}")
    return str(uids[0])


def _completed(decisions: ds.Dataset, prefix: str, output: str) -> str:
    """The only uid with this prefix. Raises UserError."""
    if len(prefix) < PREFIX:
        raise UserError(
            f"{prefix} is not a uid in {output}; the beginning of one needs at least {PREFIX} characters"
        )
    wanted = pc.starts_with(ds.field("uid"), prefix)
    uids = pc.unique(decisions.to_table(["uid"], filter=wanted)["uid"]).to_pylist()
    if not uids:
        raise UserError(f"no sample with uid {prefix} in {output}")
    if len(uids) > 1:
        some = ", ".join(sorted(uids)[:3])
        raise UserError(f"{len(uids)} uids start with {prefix}, such as {some}: use a longer prefix")
    return str(uids[0])


def _represented(decisions: ds.Dataset, uid: str) -> list[Represented]:
    """The removed samples that the kept sample `uid` represents, most similar first."""
    wanted = ds.field("represented_by") == uid
    rows = decisions.to_table(["uid", "reason", "similarity"], filter=wanted).to_pylist()
    found = [Represented(row["uid"], row["reason"], row["similarity"]) for row in rows]
    return sorted(found, key=lambda r: (-r.similarity, r.uid))


def _decisions(output: str) -> ds.Dataset:
    folder = files.join(output, "decisions")
    if not files.exists(folder) or not files.exists(files.join(output, "summary.json")):
        raise OutputError(f"{output} is not the output of a finished run: summary.json or decisions missing")
    fs, path = files.filesystem(folder)
    return ds.dataset(path, filesystem=fs, format="parquet")


def _kept(output: str, uids: set[str]) -> dict[str, Representative]:
    """The kept samples with these uids, in this output or one that it extends."""
    at: str | None = output
    result: dict[str, Representative] = {}
    while at and (missing := uids - result.keys()):
        wanted = ds.field("uid").isin(list(missing)) & ds.field("kept")
        for row in _decisions(at).to_table(filter=wanted).to_pylist():
            result[row["uid"]] = Representative(Decision.from_row(row), at)
        extends = _summary(at).get("extends")
        at = extends["output"] if extends else None
    return result


def _summary(output: str) -> dict[str, Any]:
    """The output's summary.json, which another version of made may have written."""
    found: dict[str, Any] = json.loads(files.read(files.join(output, "summary.json")))
    return found


def _urls(output: str) -> Urls:
    url = files.join(output, paths.ACCOUNTS)
    if not files.exists(url):
        raise UserError(f"{url} is missing: re-run `made curate` with the output's recipe to restore it")
    fs, path = files.filesystem(url)
    table = ds.dataset(path, filesystem=fs, format="parquet").to_table(["shard", "url"])
    return dict(zip(table["shard"].to_pylist(), table["url"].to_pylist(), strict=True))


def _kept_table(decision: Decision, output: str, represented: Sequence[Represented], urls: Urls) -> Table:
    table = _table(decision, urls)
    _add_facts(table, _facts_of_kept(decision, output, urls))
    _add(table, "outcome", "kept")
    _add(table, "output", _output(decision, output))
    for name, value in _represents(represented):
        _add(table, name, value)
    return table


def _facts_of_kept(decision: Decision, output: str, urls: Urls) -> SampleFacts | None:
    if has_shards(_summary(output)):
        return sample_facts.of_kept(output, str(decision.output_shard), str(decision.output_key))
    return sample_facts.of_input(urls[decision.shard], decision.row, decision.key)


def _dropped_table(
    decision: Decision, representative: Representative | None, urls: Urls, bounds: Mapping[str, object]
) -> Table:
    table = _table(decision, urls)
    _add_facts(table, sample_facts.of_input(urls[decision.shard], decision.row, decision.key))
    reason = filters.by_name(str(decision.reason))
    meaning = f", {filters.meaning(reason, bounds)}" if reason else ""  # None: a reason of another version
    _add(table, "outcome", f"dropped: {decision.reason}{meaning}")
    if decision.error:
        _add(table, "error", _quoted(decision.error))
    if representative is None:
        _add(table, "represented by", "no sample")
        return table
    kept, output = representative.decision, representative.output
    _add(table, "represented by", kept.uid)
    _add(table, "similarity", f"{decision.similarity:.6f}")
    _add(table, "its input", _input(kept, _urls(output)))
    _add(table, "its output", _output(kept, output))
    return table


def _table(decision: Decision, urls: Urls) -> Table:
    table = Table(show_header=False, title=Text(f"sample {decision.uid}"))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    _add(table, "input", _input(decision, urls))
    if decision.clip_score is not None:
        _add(table, "CLIP score", f"{decision.clip_score:.4f}")
    return table


def _add(table: Table, name: str, value: str) -> None:
    table.add_row(name, Text(value))  # brackets are not markup


def _add_facts(table: Table, facts: SampleFacts | None) -> None:
    _add(table, "caption", "not available" if facts is None else _quoted(facts.caption))
    _add(table, "url", "not available" if facts is None else _quoted(facts.url))


def _represents(represented: Sequence[Represented]) -> Iterator[tuple[str, str]]:
    """How many samples a kept one represents, and the most similar of them."""
    if not represented:
        yield "represents", "no removed sample"
        return
    more = f", the {SHOWN} most similar:" if len(represented) > SHOWN else ":"
    count = len(represented)
    yield "represents", f"{count:,} removed sample{'s' if count > 1 else ''}{more}"
    for other in represented[:SHOWN]:
        yield "", f"{other.uid}  {other.reason}  {other.similarity:.6f}"


def _quoted(text: str | None) -> str:
    return "none" if text is None else json.dumps(text, ensure_ascii=False)


def _input(decision: Decision, urls: Urls) -> str:
    return f"{urls[decision.shard]}, key {decision.key} (row {decision.row})"


def _output(decision: Decision, output: str) -> str:
    if not has_shards(_summary(output)):
        return f"{output}, in its keep lists only ({NO_SHARDS})"
    return f"{output}/shards/{decision.output_shard}.tar, key {decision.output_key}"
