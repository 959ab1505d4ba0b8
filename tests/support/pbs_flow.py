"""A flow for tests of PBS jobs: it ends at once, or waits to be ended from outside."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow


@flow(name="pbs-test", persist_result=False)
def work(note: str, waits: int = 0) -> None:
    """Writes a line to `note` and ends; the first `waits` attempts never end."""
    path = Path(note)
    with path.open("a") as file:
        file.write("began\n")
    if len(path.read_text().splitlines()) <= waits:
        while True:
            time.sleep(0.1)
