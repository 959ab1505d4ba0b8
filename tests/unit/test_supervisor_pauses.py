"""How long the supervisor waits before it starts a program again."""

from __future__ import annotations

import time

import pytest

from flows.service import supervisor
from flows.service.state import Config, Given, Ports


@pytest.mark.usefixtures("home")
def test_a_program_that_ends_again_and_again_is_paused_up_to_a_minute() -> None:
    """Also after a weekend; once it has worked for a while, the pauses start anew."""
    given = Given(database_url="postgresql://u@h/made", prefect_api_url="http://h/api")
    config = Config(ports=Ports(postgres=1001, prefect=1002, front_door=1003), given=given)
    supervised = supervisor.Supervisor(config, None)
    program = supervised._programs[0]
    child = supervised._child(program.name)

    def pause(lived: float) -> float:
        supervised._since[program.name] = time.time() - lived
        supervised._ended(program, child, 1)
        return supervised._again[program.name] - time.monotonic()

    pauses = [pause(1.0) for _ in range(1100)]
    assert [round(p) for p in pauses[:8]] == [1, 2, 4, 8, 16, 32, 60, 60] and round(max(pauses)) == 60
    assert round(pauses[-1]) == 60
    assert [round(pause(lived)) for lived in (supervisor.STABLE_SECONDS + 1, 1.0, 1.0)] == [1, 2, 4]
    assert child.restarts == 1103
