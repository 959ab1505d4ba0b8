"""Accounts: samples = kept + dropped by reason + unreadable, of a shard and in all."""

from __future__ import annotations

from made_core.dedup.filters import KEPT, REASONS, Codes, code
from made_core.types import Account, Reason


def account(reason: Codes) -> Account:
    """The counts of some samples' codes."""
    counts: dict[Reason, int] = {r: int((reason == code(r)).sum()) for r in REASONS}
    unreadable = counts.pop(Reason.UNREADABLE)
    return Account(
        samples=len(reason),
        kept=int((reason == KEPT).sum()),
        dropped={str(r.value): c for r, c in counts.items() if c},
        unreadable=unreadable,
    )


def total(accounts: list[Account]) -> Account:
    """The sum of accounts."""
    dropped: dict[str, int] = {}
    for a in accounts:
        for name, count in a.dropped.items():
            dropped[name] = dropped.get(name, 0) + count
    ordered: dict[str, int] = {r.value: dropped[r.value] for r in REASONS if r.value in dropped}
    return Account(
        samples=sum(a.samples for a in accounts),
        kept=sum(a.kept for a in accounts),
        dropped=ordered,
        unreadable=sum(a.unreadable for a in accounts),
    )
