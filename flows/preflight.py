"""Checks that need no worker, made before anything starts, so that a user error is reported at once."""

from __future__ import annotations

import ctypes
import glob
import os
import socket
import sys
from collections.abc import Collection
from contextlib import closing

from flows.holder import has_died, holder
from flows.service import state
from made_core.embed import models
from made_core.errors import TAKE_OVER, EncoderError, OutputError, RayAddressError
from made_core.ingest import discovery, roots
from made_core.io import files, paths, probe
from made_core.ledger.database import is_loopback
from made_core.ledger.ledger import Ledger
from made_core.output.claim import check_claim
from made_core.recipe import Encoder, Recipe
from made_core.settings import settings
from made_core.types import RunState

RAY_SECONDS = 5.0  # timeout for a Ray head
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # HTTP/2: preface, no settings
GPUS = ("/dev/nvidia*", "/dev/nvmap", "/dev/dxg", "/dev/kfd")  # NVIDIA, its boards, WSL, AMD
REMEDY = "start one with `ray start --head`, or unset the address to run on this machine"


def check(recipe: Recipe, tars: Collection[str], log_folder: str | None) -> None:
    """Checks the Ray head, the encoder and the folders that a run writes to.

    Args:
        recipe: with absolute paths, see `paths.located`.
        tars: URLs of the source shards.
        log_folder: folder for the log files of the run and its workers.

    Raises:
        UserError: one of them cannot be used; the message says what to do.
        StorageFailed: the storage of output or store does not answer.
    """
    check_ray()
    check_files(recipe, tars, log_folder)


def located(wanted: Recipe, replace: bool, log_folder: str | None, in_job: bool = False) -> Recipe:
    """A command's recipe with absolute paths, after all checks that need no ledger; only lists the sources.

    Args:
        in_job: it will run in a job, on the Ray of that: the configured Ray head does not count.

    Raises:
        UserError, StorageFailed: as `check`, or a source is missing, or the output is not the run's.
    """
    at = paths.located(wanted)
    roots.confine(at, settings().allowed)
    found = discovery.expand(at.sources, at.admission.require_stats)
    if not in_job:
        check_ray()
    check_files(at, (*found.admitted, *found.refused), log_folder)
    if at.extends is None:  # otherwise the owner depends on the recipe of the extended run
        check_claim(at, replace, log_folder)
    return at


def check_files(recipe: Recipe, tars: Collection[str], log_folder: str | None) -> None:
    """Checks the encoder and the folders that a run writes to: as `check`, without the Ray head."""
    roots.confine_tars(tars, settings().allowed)
    paths.keep_apart(recipe, tars, log_folder)
    models.check(recipe.encoder)
    probe.writable("output", recipe.output)
    probe.writable("store", recipe.store_url)
    if log_folder is not None:
        roots.confine_folder("log folder", log_folder, settings().allowed)
        probe.writable("log folder", files.absolute(log_folder))


def check_free(url: str, recipe: Recipe) -> None:
    """Checks in the ledger at `url` that no other process is running the run of an output.

    Raises:
        OutputError: one is.
        DatabaseError: the database cannot be reached.
    """
    with closing(Ledger.open(url)) as ledger:
        run = ledger.runs.of_output(recipe.output)
    if run is None or not run.held or run.holder is None or has_died(run.holder):
        return
    if run.holder != holder():
        raise OutputError(
            f"{recipe.output} is being written by run {run.id}, held by {run.holder} "
            f"until {run.lease_until:%Y-%m-%d %H:%M:%S %Z} unless renewed; wait for it or name "
            "another output"
        )


def check_owner(url: str, recipe: Recipe, replace: bool) -> None:
    """Checks in the ledger at `url` that an output does not belong to a run of another recipe.

    A run that failed before its first unit does not count: it has written nothing.

    Raises:
        OutputError: it does, and `replace` is false.
        DatabaseError: the database cannot be reached.
    """
    with closing(Ledger.open(url)) as ledger:
        run = ledger.runs.of_output(recipe.output)
        if run is not None and run.state is RunState.FAILED and not ledger.progress.of(run.id):
            return
    if run is not None and run.recipe_digest != recipe.recipe_digest and not replace:
        raise OutputError(
            f"{recipe.output} belongs to run {run.id} with another recipe since "
            f"{run.created_at:%Y-%m-%d %H:%M:%S %Z}; {TAKE_OVER}"
        )


def check_ray() -> None:
    """Checks that the configured Ray head, if any, answers and that its workers can reach the ledger.

    Raises:
        RayAddressError: the address is not host:port, no Ray head answers, or the head is on another host
            while the ledger listens on this host only.
    """
    address = settings().ray_address
    if address in (None, "", "auto", "local"):
        return
    host, port = _parts(str(address))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RayAddressError(f"Ray head {address}: unknown host {host} ({error.strerror})") from None
    if not any(_is_own(family, at[0]) for family, _, _, _, at in found):
        service = state.running()
        ledger = service.database_url if service else None
        _check_reachable(str(address), settings().database_url or ledger)
    try:
        with socket.create_connection((host, port), RAY_SECONDS) as connection:
            connection.settimeout(RAY_SECONDS)
            connection.sendall(HELLO)
            if connection.recv(9)[3:4] != b"\x04":  # the SETTINGS frame that every gRPC server sends first
                raise RayAddressError(f"the server at {address} is not a Ray head: {REMEDY}")
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        raise RayAddressError(f"no Ray head answers at {address} ({reason}): {REMEDY}") from None


def check_gpu(encoder: Encoder) -> None:
    """Checks, without torch, that this machine may have the GPU that an encoder needs, if Ray starts here.

    For the process that runs the flow: the front door's may be on another machine.

    Raises:
        EncoderError: it certainly has none.
    """
    if encoder.device != "cuda" or settings().ray_address not in (None, "", "local"):
        return
    ray = sys.modules.get("ray")
    if os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()):
        return
    if _has_no_gpu():
        raise EncoderError(
            "encoder.device is cuda, but this machine has no GPU; set auto or cpu, or name a Ray head whose "
            "workers have one (--ray-address or MADE_RAY_ADDRESS)"
        )


def _has_no_gpu() -> bool:
    """Whether there is neither a GPU's device file, which a driver may create late, nor NVIDIA's driver."""
    if any(glob.glob(pattern) for pattern in GPUS):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def _check_reachable(address: str, ledger: str | None) -> None:
    """Checks that the workers of another host can reach a ledger; None: the private PostgreSQL."""
    if ledger is None:
        raise RayAddressError(
            f"Ray head {address} is on another host: its workers cannot reach the private PostgreSQL "
            "of this host; set MADE_DATABASE_URL to a PostgreSQL that all hosts can reach"
        )
    if is_loopback(ledger):
        raise RayAddressError(
            f"Ray head {address} is on another host: its workers cannot reach the ledger, which listens on "
            "loopback; start the service with `made up --listen ADDRESS`, or set MADE_DATABASE_URL to a "
            "PostgreSQL that all hosts can reach"
        )


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RayAddressError(f"Ray head {address}: expected host:port, such as 10.0.0.5:6379")
    return host.strip("[]"), int(port)


def _is_own(family: int, host: str | int) -> bool:
    """Whether an address belongs to this machine: a socket can be bound only to its own addresses."""
    with socket.socket(family, socket.SOCK_DGRAM) as probing:
        try:
            probing.bind((host, 0))
        except OSError:
            return False
    return True
