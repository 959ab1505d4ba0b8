"""Downloads with the real img2dataset, and triggers runs on a service: `make test-img2dataset`.

img2dataset is installed into an environment of its own, build/img2dataset. A local web server has the
pictures. Prints what happened as a table and one JSON line; exits 0 only if all is as in docs/img2dataset.md.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console
from rich.table import Table

from made_core.output import summary as summaries
from tests.support import checks, runs
from tests.support.factories import encoded_image

REQUIREMENT = "img2dataset==1.47.0"
ENVIRONMENT = checks.ROOT / "build" / "img2dataset"
WRAPPER = checks.ROOT / "deployments" / "img2dataset" / "download-and-curate.sh"
PICTURES, PER_SHARD, MORE = 300, 100, 10
RUN_SECONDS = 1200


@dataclass
class Web:
    """A web server of pictures, `/NUMBER.jpg`, on a free port."""

    url: str = ""
    gate: int | None = None  # requests for this picture and later ones wait
    waiting: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def urls(self, numbers: range) -> str:
        """The lines of a list of URLs."""
        return "".join(f"{self.url}/{n}.jpg\n" for n in numbers)


@contextmanager
def web() -> Iterator[Web]:
    """A running server."""
    found = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.strip("/").removesuffix(".jpg"))
            if found.gate is not None and number >= found.gate:
                found.waiting.set()
                found.opened.wait()
            data = encoded_image(number, (160, 120))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            with suppress(ConnectionError):  # the caller was killed
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: one line for each picture."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        found.opened.set()
        server.shutdown()


def installed() -> Path:
    """The program img2dataset, installed on the first call."""
    program = ENVIRONMENT / "bin" / "img2dataset"
    if not program.exists():
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)], check=True
        )
        python = str(ENVIRONMENT / "bin" / "python")
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, REQUIREMENT], check=True)
    return program


def arguments(urls: Path, folder: Path) -> list[str]:
    """Arguments of img2dataset for a list of URLs."""
    return [
        "--url_list", str(urls), "--input_format", "txt", "--output_folder", str(folder),
        "--output_format", "webdataset", "--number_sample_per_shard", str(PER_SHARD),
        "--processes_count", "1", "--thread_count", "4", "--image_size", "128",
    ]  # fmt: skip


class Test:
    """The service, the folders and what was seen."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: an empty one; receives everything."""
        self.folder, self.output, self.shards = folder, folder / "curated", folder / "shards"
        self.urls = folder / "urls.txt"
        self.environ = {
            **os.environ, "MADE_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect"),
            "IMG2DATASET": str(installed()), "MADE": runs.MADE,
        }  # fmt: skip
        self.rows: list[tuple[str, str, bool]] = []

    def made(self, *args: str, code: int = 0) -> str:
        """What `made ARGS` prints."""
        return self._run([runs.MADE, *args], code)

    def download(self, *options: str) -> str:
        """What the wrapper prints."""
        command = [str(WRAPPER), "--output", str(self.output), *options, "--"]
        return self._run([*command, *arguments(self.urls, self.shards)], 0)

    def saw(self, what: str, found: str, is_right: bool) -> None:
        """Records one thing that was seen."""
        self.rows.append((what, found, is_right))

    def claims(self) -> int:
        """How often a shard was embedded, in all."""
        [url] = [
            line.partition("=")[2].strip("'\"")
            for line in self.made("env").splitlines()
            if "MADE_DATABASE_URL" in line
        ]
        published = summaries.read(str(self.output))
        return runs.events(url, published.run)["embed"] if published else 0

    def _run(self, command: list[str], code: int) -> str:
        done = subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=RUN_SECONDS
        )
        text = done.stdout + done.stderr
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{text}"
        return text


def check(test: Test, server: Web) -> None:
    """All the checks, in order."""
    test.urls.write_text(server.urls(range(PICTURES)))
    text = test.download("--wait")
    summary = summaries.read(str(test.output))
    assert summary is not None, text
    counts = f"{summary.samples.in_} in, {summary.samples.kept} kept"
    test.saw("a download starts and completes a run", counts,
             "started: run" in text and summary.samples.in_ == PICTURES)  # fmt: skip
    before = test.claims()
    test.saw(
        "it embeds each shard once", f"{before} of {PICTURES // PER_SHARD}", before == PICTURES // PER_SHARD
    )
    text = test.download()
    test.saw("a second call starts none", _line(text), "already there: run" in text)
    test.urls.write_text(server.urls(range(PICTURES + MORE)))
    text = test.download("--wait")
    summary = summaries.read(str(test.output))
    assert summary is not None, text
    test.saw(f"{MORE} more URLs start a run", f"{summary.samples.in_} in",
             "started: run" in text and summary.samples.in_ == PICTURES + MORE)  # fmt: skip
    test.saw("which embeds one shard", str(test.claims() - before), test.claims() == before + 1)
    killed = test.folder / "killed"
    _kill(test, server, killed)
    text = test.made("trigger", str(killed), "--output", str(test.folder / "other"), code=2)
    named = [name for name in ("00000", "00001", "00002", "00003") if f"{name} (" in text]
    test.saw("a killed job is refused, its shards named", _line(text), named == ["00001", "00002", "00003"])


def _kill(test: Test, server: Web, folder: Path) -> None:
    """Starts a download and kills it while its second shard is written."""
    server.gate = PER_SHARD + PER_SHARD // 2
    process = subprocess.Popen(
        [test.environ["IMG2DATASET"], *arguments(test.urls, folder)],
        env=test.environ, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert server.waiting.wait(RUN_SECONDS), "img2dataset asks for no picture of the second shard"
        end = time.monotonic() + RUN_SECONDS
        while not (folder / "00000_stats.json").exists():
            assert time.monotonic() < end, "img2dataset does not finish its first shard"
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _line(text: str) -> str:
    return next(line for line in reversed(text.splitlines()) if "made:" in line or "run " in line)


def main() -> int:
    """Returns 0 if all is as documented."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="made-") as name, web() as server:
        test = Test(Path(name))
        try:
            test.made("up")
            check(test, server)
        finally:
            test.made("down")
    table = Table("what", "found", "")
    for what, found, is_right in test.rows:
        table.add_row(what, found, "" if is_right else "WRONG")
    Console(width=140).print(table)
    wrong = [what for what, _, is_right in test.rows if not is_right]
    print(json.dumps({"checks": len(test.rows), "wrong": wrong, "seconds": round(time.monotonic() - start)}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
