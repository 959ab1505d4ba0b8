"""What processes that only wait for others load."""

from __future__ import annotations

import subprocess
import sys


def loaded(imports: str, of: set[str]) -> list[str]:
    """Which modules of `of` a process has after `import IMPORTS`."""
    code = f"import sys, {imports}; print(*sorted({of!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_flow_loads_no_torch() -> None:
    """It takes three seconds and a gigabyte, and every run has a flow process beside its workers."""
    assert loaded("flows.run", {"torch", "faiss", "webdataset"}) == []


def test_a_worker_loads_nothing_of_the_flow_but_its_name() -> None:
    """It imports the flow's module with its first task; the schema of the ledger is the flow's to upgrade."""
    given = "flows.curate, tasks.run_units"
    assert loaded(given, {"flows.drive", "flows.request", "alembic", "sqlalchemy"}) == ["sqlalchemy"]


def test_checking_a_request_imports_neither_ray_nor_torch() -> None:
    """A mistake then ends a run in seconds."""
    assert loaded("flows.curate", {"ray", "torch", "faiss"}) == []
