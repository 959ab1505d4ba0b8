"""The folder of a cluster, on a file system that all its nodes share: what they must know of each other."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.pbs.resources import Share
from made_core.errors import UserError

# Variables that belong to one host or process; the nodes have their own.
OWN = {
    "_", "PWD", "OLDPWD", "SHLVL", "HOSTNAME", "TMPDIR", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
    "NCPUS", "OMP_NUM_THREADS", "DISPLAY", "TERM", "LS_COLORS", "RAY_ADDRESS", "XDG_RUNTIME_DIR",
}  # fmt: skip
OWN_PREFIXES = ("PBS_", "SLURM_", "SSH_", "BASH_FUNC_", "XDG_SESSION")


@dataclass(frozen=True)
class Head:
    """Where the head node's agent and servers are."""

    node: str
    address: str
    desk_port: int
    ray_port: int
    dashboard_port: int | None  # at 127.0.0.1 of the head node
    pid: int

    @property
    def ray_address(self) -> str:
        """host:port of Ray's head."""
        return f"{self.address}:{self.ray_port}"


class ClusterFolder:
    """Paths and files of the folder. Only its user can read it: it holds the token."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token_path = path / "token"
        self.node_script = path / "node.sh"

    @property
    def token(self) -> str:
        """The secret that the nodes of this cluster have in common."""
        return self.token_path.read_text()

    def log(self, node: str) -> Path:
        """What a node's agent and its `ray start` print."""
        return self.path / "logs" / f"{node}.log"

    def head(self) -> Head:
        """As the head's agent wrote it."""
        return Head(**json.loads((self.path / "head.json").read_text()))

    def write_head(self, head: Head) -> None:
        """For the other nodes, and for the shell."""
        part = self.path / "head.part"
        part.write_text(json.dumps(asdict(head)))
        part.rename(self.path / "head.json")

    def remove_if_headed_by(self, node: str) -> None:
        """Removes the folder once the head node has left, if it had started: else its log tells why not."""
        with suppress(OSError, ValueError):
            if self.head().node == node:
                shutil.rmtree(self.path, ignore_errors=True)

    def shares(self) -> dict[str, Share]:
        """The job's share of each node, as far as the scheduler tells."""
        found = json.loads((self.path / "shares.json").read_text())
        return {name: Share(**values) for name, values in found.items()}

    def ray_environment(self) -> dict[str, str]:
        """What a process needs in order to reach this cluster."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            # PBS kills ten seconds after SIGTERM.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
            # The answer of a task on a node that lost its power is waited for until gRPC's own checks of the
            # connection fail; by default they come every 300 s and may take 120 s. Checks that come more
            # often than every 60 s are abuse to Ray's servers, which close the connection.
            "RAY_grpc_client_keepalive_time_ms": "65000",
            "RAY_grpc_client_keepalive_timeout_ms": "20000",
            "RAY_USAGE_STATS_ENABLED": "0",
        }


def prepare(
    path: Path, shares: Mapping[str, Share], environment: Mapping[str, str] = os.environ
) -> ClusterFolder:
    """Fills the folder: a new token, the shares, and node.sh, which starts the agent of a node.

    A node's own environment is bare. node.sh has that of this process; only the user can read it, since it
    may hold credentials of an object store.

    Raises:
        UserError: the path cannot be used.
    """
    if len(str(path).split()) != 1:
        raise UserError(
            f"MADE_CLUSTERS: {path} contains a blank, which pbs_tmrsh cannot pass on; "
            "set it to a folder on a shared file system without blanks in its path"
        )
    folder = ClusterFolder(path)
    path.chmod(0o700)
    (path / "logs").mkdir(exist_ok=True)
    _private(folder.token_path, secrets.token_hex(32))
    known = {name: asdict(share) for name, share in shares.items()}
    (path / "shares.json").write_text(json.dumps(known))
    forwarded = {
        name: value for name, value in environment.items()
        if name.isidentifier() and name not in OWN and not name.startswith(OWN_PREFIXES)
    } | folder.ray_environment()  # fmt: skip
    container = shlex.split(environment.get("MADE_CONTAINER", ""))  # such as: apptainer exec --nv made.sif
    command = [*container, sys.executable, "-m", "flows.pbs.node", str(path)]
    lines = [
        "#!/bin/bash",
        "# Starts the agent of a node: node.sh NODE [HOST:PORT of the head's agent, or --head ...]",
        f'exec </dev/null >>{shlex.quote(str(path / "logs"))}/"$1".log 2>&1 || exit',
        *(f"export {name}={shlex.quote(value)}" for name, value in sorted(forwarded.items())),
        "cd /",
        f'exec {shlex.join(command)} "$@"',
    ]
    _private(folder.node_script, "\n".join(lines) + "\n")
    return folder


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
