"""Imports go one way: flows -> tasks -> made_core, and made_core imports no engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("room", "foreign"),
    [("made_core", {"prefect", "prefect_ray", "ray", "tasks", "flows"}), ("tasks", {"prefect_ray", "flows"})],
)
def test_a_layer_imports_no_higher_layer(room: str, foreign: set[str]) -> None:
    modules = [f"{room}.{p.stem}" for p in sorted((ROOT / room).glob("*.py")) if p.stem != "__init__"]
    script = f"import sys, {', '.join(modules)}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not foreign & set(done.stdout.split())
