"""A judge for the boxes of tests/fuzz that fails in every way that they must survive."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

MIB = 1 << 20


def misbehave(seed: int, number: int, folder: Path) -> dict[str, int]:
    """Fails at each odd number; `seed` is the memory limit in MiB, of which it allocates twice as much."""
    if number == 1:
        raise ValueError("odd")
    if number == 3:
        bytes(seed * 2 * MIB)
    if number == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 7:
        time.sleep(60)
    return {"fine": 1}
