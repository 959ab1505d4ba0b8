"""The process that runs the flow, and that can be killed: python -m tests.chaos.drive GO HEAD

It imports what it needs, then waits for the file GO, a recipe, so that it starts without delay.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray

from flows.curate import curate
from made_core.recipe_file import validate


def main(go: Path, address: str) -> None:
    """Curates on a cluster whose workers load the killer."""
    while not go.exists():
        time.sleep(0.05)
    ray.init(
        address,
        namespace="prefect",
        log_to_driver=False,
        _node_ip_address=address.split(":")[0],
        runtime_env={"worker_process_setup_hook": "tests.chaos.killer.install"},
    )
    curate(validate(json.loads(go.read_text()), "the chaos run"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
