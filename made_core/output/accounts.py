"""Accounts: samples = kept + dropped by reason + unreadable, of a shard and in all."""

from __future__ import annotations

from made_core.filters import REASONS
from made_core.reasons import KEPT, UNREADABLE, Codes
from made_core.types import Account


def account(reason: Codes) -> Account:
    """The counts of some samples' codes."""
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
