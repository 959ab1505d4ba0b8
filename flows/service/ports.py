"""Free TCP ports of this machine."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from flows.service.state import LOOPBACK, Ports
from made_core.errors import UserError

PREFECT, FRONT_DOOR = 4200, 4280  # the usual ports, which the documents name


def choose(address: str, usual: bool = False, door: str = LOOPBACK) -> Ports:
    """Three different free ports.

    Args:
        address: on which PostgreSQL and the Prefect server listen.
        usual: of Prefect and the front door the usual ones where they are free.
        door: on which the front door listens.

    Raises:
        UserError: `address` or `door` is not one of this machine's.
    """
    wanted = {"postgres": 0, "prefect": PREFECT if usual else 0, "front_door": FRONT_DOOR if usual else 0}
    found = {}
    with ExitStack() as bound:  # all at once, so that no port is given twice
        for name, port in wanted.items():
            at = door if name == "front_door" else address
            held = bound.enter_context(_socket(at))
            held.bind((at, port if port and is_free(at, port) else 0))
            found[name] = int(held.getsockname()[1])
    return Ports(**found)


def is_free(address: str, port: int) -> bool:
    """Whether a server of this machine could listen there. Raises UserError: see `choose`."""
    with _socket(address) as probing:
        try:
            probing.bind((address, port))
        except OSError:
            return False
    return True


def _socket(address: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ignores TIME_WAIT
        with socket.socket(family, socket.SOCK_STREAM) as probing:
            probing.bind((address, 0))
    except OSError as error:
        raise UserError(
            f"{address} is not an address of this machine ({error.strerror or error}): --listen names the "
            "servers', MADE_FRONT_DOOR_HOST the front door's; "
            "127.0.0.1 is reachable from this machine alone, 0.0.0.0 listens on all addresses"
        ) from None
    return found
