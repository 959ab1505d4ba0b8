"""The image's health check of services that speak HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from tests.support.checks import ROOT

ANSWERS = [sys.executable, str(ROOT / "docker" / "answers")]


def test_answers_fails_where_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    done = subprocess.run([*ANSWERS, url], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(url)


def test_answers_fails_where_one_of_the_urls_answers_with_an_error() -> None:
    with http_server(503) as sick, http_server(200) as well:
        assert subprocess.run([*ANSWERS, well, sick], capture_output=True).returncode == 1
        assert subprocess.run([*ANSWERS, well], capture_output=True).returncode == 0


@contextmanager
def http_server(status: int) -> Iterator[str]:
    """A server on loopback that answers every request with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
