"""What a worker process sets up once, before its first unit."""

from __future__ import annotations

import resource

from made_core.errors import CorruptShard
from tasks import health, run_units


def test_the_limit_of_open_files_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        run_units._open_files.__wrapped__()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_sick_process_waits_longer_after_each_failure_up_to_a_limit() -> None:
    """A run whose last units fail on every worker must end too."""
    process, waits = health.Health(), []
    for key in "abcdefgh":
        process.ended(key, OSError("no mount"))
        process.ended(key, OSError("the same unit counts once"))
        process.ended("data", CorruptShard("not counted"))
        assert process.sick == (process.rest > 0)
        waits.append(process.rest)
    assert waits == [0, 0, 5, 10, 20, 20, 20, 20]
    process.ended("i", None)
    assert not process.sick and process.rest == 0
