"""The line between the head node's agent and those of the other nodes: a TCP connection for each.

It tells both sides at once when the other has gone, which no file on a shared file system does.
"""

from __future__ import annotations

import hmac
import json
import socket
import threading
import time
from contextlib import suppress
from typing import IO

from made_core.errors import MadeError

PING_SECONDS = 5.0
SILENCE_SECONDS = 30.0  # without a ping: the head's host is gone
CONNECT_SECONDS = 60.0
STOP, PING, STATUS, HELLO = "stop", "ping", "status", "hello"


class Desk:
    """The head's end: knows the agents that are connected, and tells them to stop."""

    def __init__(self, address: str, port: int, token: str) -> None:
        self._token = token
        self._lines: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = socket.create_server((address, port), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._ping, daemon=True).start()

    def stop(self, seconds: float) -> list[str]:
        """Tells all agents to stop; returns the nodes that have not reported back in time."""
        self.stopping.set()
        with self._lock:
            for line in self._lines.values():
                _send(line, STOP)
        end = time.monotonic() + seconds
        while self.nodes() and time.monotonic() < end:
            time.sleep(0.05)
        return self.nodes()

    def nodes(self) -> list[str]:
        """The nodes whose agents are connected."""
        with self._lock:
            return sorted(self._lines)

    def _accept(self) -> None:
        while True:
            line, _ = self._server.accept()
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("r") as reader:
            line.settimeout(CONNECT_SECONDS)
            said = _read(reader)
            if not hmac.compare_digest(str(said.get("token", "")), self._token):
                return
            if said["kind"] == STATUS:
                _send(line, STATUS, nodes=self.nodes())
                return
            name = str(said["node"])
            line.settimeout(None)
            with self._lock:
                self._lines[name] = line
                if self.stopping.is_set():
                    _send(line, STOP)
            with suppress(OSError):
                while reader.readline():
                    pass
            with self._lock:
                if self._lines.get(name) is line:
                    del self._lines[name]
            if not self.stopping.is_set():
                print(f"node {name} is gone", flush=True)

    def _ping(self) -> None:
        while not self.stopping.wait(PING_SECONDS):
            with self._lock:
                for line in self._lines.values():
                    _send(line, PING)


class Line:
    """An agent's end."""

    def __init__(self, desk: tuple[str, int], token: str, node: str) -> None:
        self._socket = _connect(desk)
        _send(self._socket, HELLO, token=token, node=node)
        self._socket.settimeout(SILENCE_SECONDS)
        self.ended = threading.Event()  # the head says stop, or is gone
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("r") as reader:
            while (said := _read(reader)) and said["kind"] != STOP:
                pass
        self.ended.set()

    def close(self) -> None:
        """Tells the head that this node is clean."""
        with suppress(OSError):  # the reader's thread holds the socket, too: close() alone does not end it
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def status(desk: tuple[str, int], token: str) -> list[str]:
    """The nodes whose agents are connected to the head. Raises MadeError if it does not answer."""
    try:
        with socket.create_connection(desk, 10) as line, line.makefile("r") as reader:
            _send(line, STATUS, token=token)
            nodes = _read(reader).get("nodes")
    except (OSError, ValueError) as error:
        raise MadeError(f"the cluster's head at {desk[0]}:{desk[1]} does not answer ({error})") from None
    if not isinstance(nodes, list):
        at = f"the cluster's head at {desk[0]}:{desk[1]}"
        raise MadeError(f"{at} does not answer: it refuses the token, or has just ended")
    return [str(name) for name in nodes]


def _connect(desk: tuple[str, int]) -> socket.socket:
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return socket.create_connection(desk, 10)
        except OSError as error:
            if time.monotonic() > end:
                raise MadeError(
                    f"the head node cannot be reached at {desk[0]}:{desk[1]} ({error}): is it the right "
                    "network interface (MADE_INTERFACE), and are ports between the nodes open?"
                ) from None
            time.sleep(0.5)


def _send(line: socket.socket, kind: str, **values: object) -> None:
    with suppress(OSError):  # the reader of the line notices
        line.sendall(json.dumps({"kind": kind, **values}).encode() + b"\n")


def _read(reader: IO[str]) -> dict[str, object]:
    """The next message; empty at the end."""
    text = reader.readline()
    found: dict[str, object] = json.loads(text) if text.strip() else {}
    return found
