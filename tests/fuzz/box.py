"""Cases are judged in a process that may die: limited memory, and a watchdog that ends it."""

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
MEMORY_DISK = Path("/dev/shm")  # what is put is flushed, which on a disk takes longer than all else
START_SECONDS = 300  # torch is imported, perhaps on a busy machine

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
    """Judges cases one by one, each process serving until it dies."""

    judge: str  # module:name of a Judge
    seed: int
    memory: int  # bytes a case may use beyond what the loaded process has: RLIMIT_DATA
    seconds: float  # for a case
    peak: int = 0  # bytes that a case used at most, resident, beyond the loaded process
    starts: int = 0

    def run(self, numbers: range) -> Iterator[Verdict]:
        """The verdicts in order.

        Raises:
            RuntimeError: a process does not start, or its limit on memory does not bite.
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
            raise RuntimeError(f"no process to judge cases in after {START_SECONDS} s")
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
    judge(seed, -1, folder)  # whatever is loaded at the first use
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
    """Bounds private writable memory, whoever allocates it: malloc, numpy, PIL, a thread's stack.

    Not RLIMIT_AS: torch alone maps gigabytes that it never uses.

    Returns:
        What is wrong with it, where it does not bite.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    now = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))
    try:
        bytes(memory + MIB)
    except MemoryError:
        return None
    return f"the limit of {memory // MIB} MiB does not bite"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    name, seed, memory, folder, descriptor = sys.argv[1:]
    with suppress(EOFError):  # the other side is done
        _serve(name, int(seed), int(memory), Path(folder), Connection(int(descriptor)))
