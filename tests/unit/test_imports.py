"""What processes that only wait for others load."""

from __future__ import annotations

import subprocess
import sys


def test_a_flow_loads_no_torch() -> None:
    """It takes three seconds and a gigabyte, and every run has a flow process beside its workers."""
    code = "import sys, flows.run; print(*sorted({'torch', 'faiss', 'webdataset'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
