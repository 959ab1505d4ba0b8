"""Retries wait for a growing, bounded time."""

from __future__ import annotations

import time

import pytest

from made_core.errors import CorruptShard, StorageFailed
from made_core.retries import BACKOFF_MOST, backoff, retrying


def test_the_wait_doubles_up_to_a_minute() -> None:
    assert [backoff(n) for n in (1, 2, 3, 4, 5, 6, 7, 100)] == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been slept."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_a_transient_error_is_retried(slept: list[float]) -> None:
    errors = [StorageFailed(str(n)) for n in range(7)]

    def call(answer: str) -> str:
        if errors:
            raise errors.pop(0)
        return answer

    assert retrying(8)(call, "done") == "done"
    assert slept == [backoff(n) for n in range(1, 8)] and slept[-1] == BACKOFF_MOST


@pytest.mark.parametrize(("error", "calls"), [(StorageFailed("full"), 3), (CorruptShard("cut"), 1)])
def test_the_last_error_is_raised(slept: list[float], error: Exception, calls: int) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)) as found:
        retrying(3)(call)
    assert found.value is error and len(made) == calls == len(slept) + 1
