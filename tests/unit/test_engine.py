"""How the engine divides units into tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import engine
from flows.engine import SHARES, batch_size
from flows.placement import ONE_CPU, Resources


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


@pytest.mark.parametrize(("resources", "calls"), [(Resources(3, 0.5), 1), (ONE_CPU, 0)])
def test_the_process_of_a_task_with_a_gpu_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, resources: Resources, calls: int
) -> None:
    """Embed tasks then begin in new processes, each on the GPU that Ray names for its first task."""
    seen: dict[str, Any] = {}

    @contextmanager
    def options(**given: Any) -> Iterator[None]:
        seen.update(given)
        yield

    monkeypatch.setattr(engine, "remote_options", options)
    engine.run_task(Mock(), resources=resources)
    assert seen == {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_calls": calls}
