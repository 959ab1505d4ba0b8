"""Free TCP ports of this machine."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from flows.service.state import Ports
from made_core.errors import UserError


def choose(address: str) -> Ports:
    """Three different free ports. Raises UserError if `address` is not one of this machine's."""
    with ExitStack() as bound:  # all at once, so that no port is given twice
        numbers = []
        for _ in range(3):
            held = bound.enter_context(_socket(address))
            held.bind((address, 0))
            numbers.append(int(held.getsockname()[1]))
    postgres, prefect, front_door = numbers
    return Ports(postgres=postgres, prefect=prefect, front_door=front_door)


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
            f"--listen {address}: not an address of this machine ({error.strerror or error}); "
            "127.0.0.1 is reachable from this machine alone, 0.0.0.0 listens on all addresses"
        ) from None
    return found
