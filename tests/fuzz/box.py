"""Cases are judged in a process that may die, with limited memory and a watchdog."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
SLACK = 16 * MIB  # malloc gives back the unused top of its heap before it maps as much
MEMORY_DISK = Path("/dev/shm")  # puts are flushed, which takes most of the time on a disk
START_SECONDS = 300  # includes the import of torch on a busy machine

Judge = Callable[[int, int, Path], dict[str, int]]  # (seed, number, an empty folder) -> counts


@dataclass(frozen=True)
class Verdict:
    """How a case ended."""

    number: int
    counts: dict[str, int] = field(default_factory=dict)
    wrong: str | None = None  # an exception, a hang, a crash
    seconds: float = 0.0
    dead: bool = False  # the process did not survive it


@dataclass
class Box:
    """Judges cases one by one; each process is used until it dies."""

    judge: str  # module:name of a Judge
    seed: int
    memory: int  # bytes that a case may use beyond those of the loaded process: RLIMIT_DATA
    seconds: float  # for a case
    peak: int = 0  # most resident bytes that a case used beyond those of the loaded process
    starts: int = 0

    def run(self, numbers: range) -> Iterator[Verdict]:
        """The verdicts in order.

        Raises:
            RuntimeError: a process does not start, or its memory limit is not enforced.
        """
        left = list(reversed(numbers))
        where = MEMORY_DISK if MEMORY_DISK.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=where) as folder:
            while left:
                with self._process(folder) as ours:
                    is_dead = False
                    while left and not is_dead:
                        verdict = self._ask(ours, left.pop())
                        is_dead = verdict.dead
                        yield verdict

    @contextmanager
    def _process(self, folder: str) -> Iterator[Connection]:
        ours, theirs = Pipe()
        told = [self.judge, str(self.seed), str(self.memory), folder, str(theirs.fileno())]
        command = [sys.executable, "-m", "tests.fuzz.box", *told]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            self._greet(ours)
            yield ours
        finally:
            ours.close()
            process.kill()
            process.wait()

    def _greet(self, ours: Connection) -> None:
        self.starts += 1
        if not ours.poll(START_SECONDS):
            raise RuntimeError(f"no process started to judge cases after {START_SECONDS} s")
        try:
            told = ours.recv()
        except EOFError:
            told = "the process to judge cases in did not start: see its error above"
        if told != "ready":
            raise RuntimeError(str(told))

    def _ask(self, ours: Connection, number: int) -> Verdict:
        try:
            ours.send(number)
            if not ours.poll(self.seconds):
                return Verdict(number, {}, f"hangs: no end after {self.seconds:g} s", self.seconds, dead=True)
            counts, wrong, used, seconds = ours.recv()
        except (EOFError, OSError):
            return Verdict(number, {}, "crashes: the process is gone", dead=True)
        self.peak = max(self.peak, used)
        return Verdict(number, counts, wrong, seconds)


def _serve(name: str, seed: int, memory: int, folder: Path, theirs: Connection) -> None:
    module, _, function = name.partition(":")
    judge: Judge = getattr(importlib.import_module(module), function)
    judge(seed, -1, folder)  # modules that are loaded at first use
    before = _peak()
    theirs.send(_limit(memory) or "ready")
    while True:
        number = theirs.recv()
        counts, wrong, start = {}, None, time.monotonic()
        try:
            counts = judge(seed, number, folder)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        theirs.send((counts, wrong, _peak() - before, time.monotonic() - start))


def _limit(memory: int) -> str | None:
    """Limits private writable memory of any allocator: malloc, numpy, PIL, thread stacks.

    Not RLIMIT_AS: torch alone maps gigabytes that it never uses.

    Returns:
        An error message if the limit is not enforced.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    now = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))
    try:
        bytes(memory + SLACK)
    except MemoryError:
        return None
    return f"the limit of {memory // MIB} MiB is not enforced"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    name, seed, memory, folder, descriptor = sys.argv[1:]
    with suppress(EOFError):  # the other side has closed
        _serve(name, int(seed), int(memory), Path(folder), Connection(int(descriptor)))
