"""What needs no worker, checked before anything is started: a mistake ends in one sentence, at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import closing

from made_core.embed import models
from made_core.errors import OutputError, RayAddressError
from made_core.io import files, paths, probe
from made_core.ledger.ledger import Ledger
from made_core.recipe import Recipe
from made_core.settings import settings

RAY_SECONDS = 5.0  # that a Ray head has to answer
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # HTTP/2: preface, no settings
REMEDY = "start one with `ray start --head`, or name none to run on this machine"


def check(recipe: Recipe, tars: Iterable[str], log_folder: str | None) -> None:
    """Sees that a run could begin: its Ray head, its encoder, the places that it writes to.

    Args:
        recipe: a located one.
        tars: URLs of the source shards.
        log_folder: where workers put their logs.

    Raises:
        UserError: one of them cannot be used, and what to do.
        StorageFailed: the storage of output or store did not answer.
    """
    check_ray()
    paths.keep_apart(recipe, tars, log_folder)
    models.check(recipe.encoder)
    probe.writable("output", recipe.output)
    probe.writable("store", recipe.store_url)
    if log_folder is not None:
        probe.writable("log folder", files.absolute(log_folder))


def check_owner(url: str, recipe: Recipe, replace: bool) -> None:
    """Sees that the ledger at `url` lets a run have its output.

    Raises:
        OutputError: it belongs to another run, or a process drives its run now.
        DatabaseError: the database cannot be reached.
    """
    with closing(Ledger.open(url)) as ledger:
        run = ledger.runs.of_output(recipe.output)
    if run is None:
        return
    if run.held and run.holder != f"{socket.gethostname()}:{os.getpid()}":
        raise OutputError(
            f"{recipe.output} is being written by run {run.id}, held by {run.holder} "
            f"until {run.lease_until:%Y-%m-%d %H:%M:%S %Z} unless renewed"
        )
    if run.recipe_digest != recipe.recipe_digest and not replace:
        raise OutputError(
            f"{recipe.output} belongs to run {run.id} of another recipe since "
            f"{run.created_at:%Y-%m-%d %H:%M:%S %Z}; --replace takes it over"
        )


def check_ray() -> None:
    """Sees that the Ray head that is named, if one is, answers, and that its workers reach the ledger.

    Raises:
        RayAddressError: not host:port, nothing answers there, or it is another host and the ledger
            is the private PostgreSQL of this one.
    """
    address = settings().ray_address
    if address in (None, "", "auto", "local"):
        return
    host, port = _parts(str(address))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RayAddressError(f"Ray head {address}: host {host} is not known ({error.strerror})") from None
    if settings().database_url is None and not any(_is_own(family, at[0]) for family, _, _, _, at in found):
        raise RayAddressError(
            f"Ray head {address} is on another host, whose workers cannot reach the private PostgreSQL "
            "of this one: set MADE_DATABASE_URL to a PostgreSQL that all hosts reach"
        )
    try:
        with socket.create_connection((host, port), RAY_SECONDS) as connection:
            connection.settimeout(RAY_SECONDS)
            connection.sendall(HELLO)
            if connection.recv(9)[3:4] != b"\x04":  # the settings with which every gRPC server begins
                raise RayAddressError(f"what answers at {address} is not a Ray head: {REMEDY}")
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        raise RayAddressError(f"no Ray head answers at {address} ({reason}): {REMEDY}") from None


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RayAddressError(f"Ray head {address}: expected host:port, as in 10.0.0.5:6379")
    return host.strip("[]"), int(port)


def _is_own(family: int, host: str | int) -> bool:
    """Whether an address is this machine's: only then a socket can be bound to it."""
    with socket.socket(family, socket.SOCK_DGRAM) as probing:
        try:
            probing.bind((host, 0))
        except OSError:
            return False
    return True
