"""`make test-service`: the tests marked `service`, then a table and one JSON line.

Exits 0 only if all of them passed.
"""

from __future__ import annotations

import json
import sys

import pytest
from rich.console import Console
from rich.table import Table


class Outcomes:
    """A pytest plugin that keeps the outcome and the duration of each test."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.outcome: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for the setup, the call and the teardown of a test."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if self.outcome.get(report.nodeid, "passed") == "passed":
            self.outcome[report.nodeid] = report.outcome


def main() -> int:
    """Runs the tests; the arguments go to pytest."""
    found = Outcomes()
    code = pytest.main(["-m", "service", *sys.argv[1:]], plugins=[found])
    table = Table("test", "outcome", "seconds")
    for name, outcome in found.outcome.items():
        table.add_row(name, outcome, f"{found.seconds[name]:.0f}")
    Console().print(table)
    passed = sum(outcome == "passed" for outcome in found.outcome.values())
    holds = code == 0 and passed == len(found.outcome) > 0
    print(json.dumps({"service": {"tests": len(found.outcome), "passed": passed, "holds": holds}}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
