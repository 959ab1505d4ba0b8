"""The unit tests and the demo under each Python that made supports: `python -m tests.pythons`.

Searches PATH and pyenv for the versions. The running version uses its own environment; each other version
gets one in build/pythons, installed from requirements.lock and kept until the lock changes.
Prints a table and one JSON line; exits 0 only if everything passes under every version found.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.checks import ROOT

Command = list[str | Path]

PROCESSES = "2"
VERSIONS = ("3.10", "3.11", "3.12")
BUILD = ROOT / "build" / "pythons"
TESTS = re.compile(r"^(?=.*\b(?:passed|failed|errors?)\b)=*\s*(.+? in [\d.]+s)", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """The result for one version; `python` is None if it was not found."""

    version: str
    python: str | None = None
    error: str | None = None
    unit: str = "-"  # pytest's last line
    demo: str = "-"
    passed: bool = False


def main() -> int:
    """Runs every version found; returns 0 if all pass."""
    results = [attempt(version) for version in VERSIONS]
    table = Table(title="unit tests and demo by Python version")
    for name in ("Python", "interpreter", "unit tests", "demo", "passed"):
        table.add_column(name, overflow="fold")
    for r in results:
        passed = "-" if r.python is None else "yes" if r.passed else "no"
        table.add_row(r.version, r.python or "not found", r.error or r.unit, r.demo, passed)
    Console().print(table)
    missing = [r.version for r in results if r.python is None]
    if missing:
        print(f"not found, so not tested: Python {', '.join(missing)}")
    print(json.dumps([asdict(r) for r in results]))
    return 0 if all(r.passed for r in results if r.python is not None) else 1


def attempt(version: str) -> Result:
    """Runs the unit tests, then the demo, with one version."""
    own = version == f"{sys.version_info.major}.{sys.version_info.minor}"
    python = Path(sys.executable) if own else find(version)
    if python is None:
        return Result(version)
    print(f"Python {version}: {python}", flush=True)
    try:
        home = Path(sys.prefix) if own else environment(version, python)
    except subprocess.CalledProcessError as error:
        return Result(version, str(python), f"not installed: {error.cmd[0]} exits {error.returncode}")
    began = time.monotonic()
    pytest: Command = [home / "bin" / "python", "-m", "pytest", "-n", PROCESSES]
    tests = call([*pytest, "tests/unit", "-m", "unit", "-q", "--tb=short"])
    found = TESTS.findall(tests.stdout)
    demo, seconds = demonstrate(home / "bin", BUILD / "demo" / version), time.monotonic() - began
    print(f"Python {version}: {seconds:.0f} s", flush=True)
    return Result(
        version,
        str(python),
        unit=found[-1] if found else f"exit {tests.returncode}",
        demo="passed" if demo else "failed",
        passed=tests.returncode == 0 and demo,
    )


def find(version: str) -> Path | None:
    """A working interpreter of that version: pyenv's shims of versions that are not selected fail."""
    for candidate in candidates(version):
        command: Command = [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except OSError:
            continue
        if (done.returncode, done.stdout.strip()) == (0, version):
            return candidate
    return None


def candidates(version: str) -> Iterator[Path]:
    """Candidates for that version: on PATH, then pyenv's, newest first."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        yield from (path for path in [Path(folder) / f"python{version}"] if path.exists())
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    installed = [path for path in pyenv.glob(f"{version}*/bin/python{version}") if path.exists()]
    yield from sorted(installed, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])])[::-1]


def environment(version: str, python: Path) -> Path:
    """The environment of that version, installed from the lock if it is missing or outdated."""
    home, lock = BUILD / version, ROOT / "requirements.lock"
    stamp = home / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return home
    print(f"Python {version}: installing from requirements.lock (7 GB, minutes the first time)", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv") or str(Path(sys.prefix) / "bin" / "uv")
    inside = home / "bin" / "python"
    subprocess.run([python, "-m", "venv", "--without-pip", home], check=True)
    install: Command = [uv, "pip", "install", "--quiet", "--python", inside]
    subprocess.run([*install, "--compile-bytecode", "--require-hashes", "-r", lock], check=True, cwd=ROOT)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", "."], check=True, cwd=ROOT)
    stamp.touch()
    return home


def demonstrate(programs: Path, folder: Path) -> bool:
    """Runs `make demo` with that environment and its own MADE_HOME."""
    shutil.rmtree(folder, ignore_errors=True)
    sample, output = folder / "sample", folder / "output"
    commands: list[Command] = [
        [programs / "made", "sample", sample],
        [programs / "made", "curate", "--source", sample / "shards", "--output", output],
        [programs / "python", "-m", "benchmarks.demo", sample, output],
    ]
    return all(call(command, MADE_HOME=str(folder / "home")).returncode == 0 for command in commands)


def call(command: Command, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command; prints its output if it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MADE_")}
    done = subprocess.run(
        command, env={**clean, **env}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stdout, flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
