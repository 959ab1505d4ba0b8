"""How the engine divides units into tasks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.engine import SHARES, batch_size


def sizes(ready: int, slots: int, usual: int) -> list[int]:
    """Of all tasks, if none ends before the last is submitted."""
    found = []
    while ready:
        found.append(batch_size(ready, slots, usual))
        ready -= found[-1]
    return found


def test_few_units_go_to_every_worker_and_thousands_into_few_tasks() -> None:
    assert sizes(8, 2, 16) == [2, 2, 1, 1, 1, 1]
    assert sizes(128, 2, 16)[:4] == [16] * 4
    many = sizes(10_000, 2, 16)
    assert many[0] == 1250 and len(many) < 60
    assert len(sizes(30_000, 500, 16)) > 1_800  # each of many workers has few: as before


@given(st.integers(1, 20_000), st.integers(1, 300), st.integers(1, 50))
def test_every_unit_is_in_one_task_and_none_has_most_of_a_share(ready: int, slots: int, usual: int) -> None:
    found = sizes(ready, slots, usual)
    assert sum(found) == ready and min(found) > 0
    assert found == sorted(found, reverse=True)  # the small ones last, so that workers end together
    assert max(found) <= max(usual, ready / (SHARES * slots))
