"""The worker of a composed service, on a Ray node of its own: `python -m flows.service.ray_worker NAME RUNS`.

The driver of a Ray program must be on a node of the cluster; this node offers no CPUs. Node and worker end
together, so that whatever restarts this process restarts both. `made up` needs no such node: there, each run
starts a Ray of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading

from flows.pbs import resources
from flows.service import processes
from flows.service.supervisor import LEFT_SECONDS, end_runs
from made_core.errors import UserError
from made_core.settings import settings

log = logging.getLogger("made.ray_worker")

TICK_SECONDS = 0.3


def main() -> int:
    """Runs until SIGTERM, which ends the runs in progress first, or until node or worker ends by itself.

    Returns 0 after SIGTERM, 1 otherwise. Raises UserError if MADE_RAY_ADDRESS is not set.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    name, runs = sys.argv[1:]
    address = settings().ray_address
    if address is None:
        raise UserError("MADE_RAY_ADDRESS is not set: the node joins the cluster of that head")
    os.environ.setdefault(processes.MARK, name)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    node = _start("ray.scripts.scripts", "start", "--block", f"--address={address}", "--num-cpus=0",
                  "--num-gpus=0", f"--object-store-memory={resources.object_store()}",
                  "--disable-usage-stats")  # fmt: skip
    worker = _start("flows.service.worker", name, runs)
    while not stop.wait(TICK_SECONDS) and node.poll() is None and worker.poll() is None:
        pass
    for title, process in (("Ray's node", node), ("the worker", worker)):
        if not stop.is_set() and process.poll() is not None:
            log.warning("%s ended with exit code %d: ending the other", title, process.returncode)
    end_runs(os.environ[processes.MARK], processes.identify(worker.pid))
    for process in (worker, node):
        if (found := processes.identify(process.pid)) is not None:
            processes.end(found, LEFT_SECONDS)
    return 0 if stop.is_set() else 1


def _start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"made: {error}", file=sys.stderr)
        sys.exit(2)
