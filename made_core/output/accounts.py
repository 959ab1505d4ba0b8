"""Accounts: samples = kept + dropped by reason + unreadable, per shard and in total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from made_core.filters import REASONS
from made_core.reasons import KEPT, UNREADABLE, Codes
from made_core.types import Account

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # the input shard's id
        ("url", pa.string()),
        ("state", pa.string()),  # done, failed
        ("error", pa.string()),  # why it failed
        ("expected", pa.int64()),  # samples according to its stats; null without stats
        ("samples", pa.int64()),
        ("kept", pa.int64()),
        ("unreadable", pa.int64()),
        *((reason.name, pa.int64()) for reason in REASONS if reason is not UNREADABLE),
        ("shortfall", pa.int64()),  # expected - samples, at least 0
    ]
)


@dataclass(frozen=True)
class ShardAccount:
    """The account of an input shard."""

    shard: str  # its id
    url: str
    error: str | None  # why it failed; None: it did not
    expected: int | None  # samples according to its stats; None without stats
    account: Account

    @property
    def shortfall(self) -> int:
        """Number of samples missing compared to its stats; 0 for a failed shard."""
        if self.error is not None or self.expected is None:
            return 0
        return max(0, self.expected - self.account.samples)


def table(accounts: Sequence[ShardAccount]) -> pa.Table:
    """The accounts as a table of SCHEMA."""
    rows = [
        {
            "shard": a.shard, "url": a.url, "state": "failed" if a.error else "done", "error": a.error,
            "expected": a.expected, "samples": a.account.samples, "kept": a.account.kept,
            "unreadable": a.account.unreadable, "shortfall": a.shortfall,
            **{r.name: a.account.dropped.get(r.name, 0) for r in REASONS if r is not UNREADABLE},
        }
        for a in accounts
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, SCHEMA)


def account(reason: Codes) -> Account:
    """The account of samples with these codes."""
    counts = {r.name: int((reason == r.code).sum()) for r in REASONS}
    unreadable = counts.pop(UNREADABLE.name)
    return Account(
        samples=len(reason),
        kept=int((reason == KEPT).sum()),
        dropped={name: count for name, count in counts.items() if count},
        unreadable=unreadable,
    )


def total(accounts: list[Account]) -> Account:
    """The sum of accounts."""
    dropped: dict[str, int] = {}
    for a in accounts:
        for name, count in a.dropped.items():
            dropped[name] = dropped.get(name, 0) + count
    ordered = {r.name: dropped[r.name] for r in REASONS if r.name in dropped}
    return Account(
        samples=sum(a.samples for a in accounts),
        kept=sum(a.kept for a in accounts),
        dropped=ordered,
        unreadable=sum(a.unreadable for a in accounts),
    )
