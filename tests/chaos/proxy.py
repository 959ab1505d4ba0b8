"""A TCP proxy for PostgreSQL's socket that can be cut: connections drop and new ones are refused."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Proxy:
    """Listens on a port of 127.0.0.1 in its own thread until the process ends."""

    def __init__(self, upstream: str) -> None:
        """Args: upstream: path of the unix socket."""
        self._upstream, self.port = upstream, 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.mend()

    def mend(self) -> None:
        """Accepts connections, on the same port as before."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def cut(self) -> None:
        """Drops every connection and refuses new ones."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError):
            theirs, ours = await asyncio.open_unix_connection(self._upstream)
            self._open.add(ours)
            await asyncio.gather(_pump(reader, ours), _pump(theirs, writer), return_exceptions=True)
            self._open.discard(ours)
        self._open.discard(writer)
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
