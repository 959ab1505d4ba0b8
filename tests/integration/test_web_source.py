"""Shards in a folder of a web server."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from made_core.ingest import discovery
from tests.support.factories import make_shard, members


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_its_listing_has_no_sizes(tmp_path: Path) -> None:
    for n in range(2):
        make_shard(tmp_path, f"{n:05d}", [(f"{n}", members(n))])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        here = discovery.discover([str(tmp_path)], True).shards
        for source in (url, f"{url}/*.tar"):
            there = discovery.discover([source], True).shards
            assert [(s.id, s.fingerprint) for s in there] == [(s.id, s.fingerprint) for s in here]
        assert len(here) == 2
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
