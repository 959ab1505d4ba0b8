"""The summary says what is missing: failed, skipped and short shards, unreadable texts, stray members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows import summarise
from flows.request import Request
from flows.results import Clustered, Decided, Embedded
from made_core.corpus.corpus import Corpus
from made_core.ingest.discovery import Discovery
from made_core.ingest.finished import Unfinished
from made_core.ledger.records import Result
from made_core.output.accounts import ShardAccount
from made_core.recipe import Recipe
from made_core.stages import EmbedOutput, FitOutput, IdentifyOutput, ResolveOutput, TabulateOutput
from made_core.types import Account, FileRef, Shard, UnitState

FILE = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)
SHARDS = tuple(Shard(f"{n:05}", f"/in/{n:05}.tar", f"{n:032x}", 1, 10) for n in range(7))
GOOD = EmbedOutput(10, FILE, FILE, unreadable=0, warnings=0, stray=0)
WHOLE = Account(10, 9, {"near_duplicate": 1}, 0)
REQUEST = Request(Recipe(sources=("/in",), output="/out"), False, Discovery(SHARDS, ()), None, unfinished=())
CLUSTERED = Clustered(IdentifyOutput(70, FILE, FILE, 70, 70), FitOutput(70, FILE, 2, 70, 0.9), "s", {}, ())


def embedded(failed: dict[str, str], **changes: Any) -> Embedded:
    """Of SHARDS those that are not `failed`, the first with `changes` to its output."""
    results = {
        s.fingerprint: Result(s.fingerprint, UnitState.FAILED, None, failed[s.id], 3, 1.0)
        if s.id in failed
        else Result(s.fingerprint, UnitState.DONE, GOOD, None, 1, 1.0)
        for s in SHARDS
    }
    first: Any = results[SHARDS[0].fingerprint]
    results[SHARDS[0].fingerprint] = replace(first, output=replace(GOOD, **changes))
    return Embedded(Corpus(()), FILE, None, results, failed)


def decided(accounts: dict[str, Account]) -> Decided:
    """Decisions in two batches."""
    resolved = ResolveOutput(70, FILE, FILE, FILE, FILE, FILE, FILE, 63, 0, 0, 0, 0, 0, True)
    names = sorted(accounts)
    tables = tuple(
        TabulateOutput(10, {}, {name: accounts[name] for name in some}, 1, 1, 0, 0)
        for some in (names[:1], names[1:])
    )
    return Decided("0" * 16, resolved, tables)


def rows(found: Embedded, accounts: dict[str, Account]) -> tuple[ShardAccount, ...]:
    """The accounts of the input shards."""
    return summarise.accounts(SHARDS, found, decided(accounts))


def warnings(found: Embedded, accounts: dict[str, Account], request: Request = REQUEST) -> list[str]:
    """Of a run that extends no other."""
    return summarise.warnings("r1", request, rows(found, accounts), found, CLUSTERED)


ALL = {s.id: WHOLE for s in SHARDS}


def test_a_complete_run_has_no_warnings() -> None:
    assert warnings(embedded({}), ALL) == []
    assert rows(embedded({}), ALL) == tuple(ShardAccount(s.id, s.url, None, 10, WHOLE) for s in SHARDS)


def test_failed_shards_are_named_and_counted() -> None:
    """The first three; a failed shard has an empty account and is not short."""
    failed = {s.id: f"fault {s.id}" for s in SHARDS[1:6]}
    some = {s.id: WHOLE for s in SHARDS if s.id not in failed}
    found = rows(embedded(failed), some)
    assert [r.error for r in found] == [None, *failed.values(), None]
    assert [r.account for r in found] == [WHOLE, *[Account()] * 5, WHOLE]
    assert sum(r.shortfall for r in found) == 0
    assert warnings(embedded(failed), some) == [
        "shard 00001 failed: fault 00001",
        "shard 00002 failed: fault 00002",
        "shard 00003 failed: fault 00003",
        "5 shards failed; once the cause is fixed: made retry r1",
    ]


def test_short_shards_are_counted_with_their_samples() -> None:
    short = ALL | {"00002": Account(7, 7), "00005": Account(9, 8, {}, 1)}
    assert warnings(embedded({}), short) == ["4 samples fewer than the stats of 2 shards say, such as 00002"]


def test_skipped_tars_and_unfinished_folders_are_named() -> None:
    folder = Unfinished("/in", True, {})
    request = replace(REQUEST, found=Discovery(SHARDS, ("/in/x.tar", "/in/y.tar")), unfinished=(folder,))
    assert warnings(embedded({}), ALL, request) == [
        str(folder), "skipped, without a valid _stats.json: 2 tars, such as /in/x.tar"
    ]  # fmt: skip


def test_unreadable_texts_and_stray_members_are_counted() -> None:
    assert warnings(embedded({"00006": "broken"}, warnings=3, stray=2), ALL)[2:] == [
        "3 samples with a json or txt that cannot be read", "2 tar members of no sample"
    ]  # fmt: skip
