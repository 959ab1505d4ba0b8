"""The acceptance run on real images: `python -m tests.acceptance ../shared/real WORK`.

Curates the shards in that folder with its encoder, by the command line, and checks the output against the
input without made's own code; then repeats it with a copy of the folder as a second source with the same
names. Prints a table and one JSON line; exits 0 only if every check passes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support import checks

MADE = str(Path(sys.executable).parent / "made")


def curate(real: Path, output: Path, *sources: Path, extra: tuple[str, ...] = ()) -> float:
    """Runs `made curate`; returns the wall seconds."""
    encoder = real / "encoder"
    sets = {
        "encoder.model": "MobileNetV1-coral",
        "encoder.config": encoder / "MobileNetV1-coral.json",
        "encoder.pretrained": encoder / "mobilenetv1_coral_openclip.pt",
        "clusters.k": 16,
        "dedup.eps_max": 0.3,
    }
    command = [MADE, "curate", "--output", str(output), "--store", str(output.parent / "store")]
    command += [word for s in sources for word in ("--source", str(s))]
    command += [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    started = time.monotonic()
    subprocess.run([*command, *extra], check=True)
    return time.monotonic() - started


def main(real: Path, work: Path) -> int:
    """Runs and checks; returns 0 if every check passes."""
    shutil.rmtree(work, ignore_errors=True)
    shards, output = real / "shards", work / "one"
    tars = {t.stem: t for t in sorted(shards.glob("*.tar"))}
    before = {p.name: p.stat().st_mtime_ns for p in shards.iterdir()}
    table = Table(title=f"acceptance on {real}")
    table.add_column("check")
    table.add_column("figure", justify="right")
    figures: dict[str, float] = {"seconds": round(curate(real, output, shards), 1)}
    checks.accounts_balance(output, tars)
    figures["samples"] = checks.summary(output)["samples"]["in"]
    figures["duplicates checked"] = checks.representatives_stand(output, work / "store")
    figures["samples byte for byte"] = checks.bytes_equal(output, tars)
    checks.keep_lists(output)
    checks.readers_read(output, checks.summary(output)["samples"]["kept"])
    figures["read by three readers"] = checks.summary(output)["samples"]["kept"]

    shutil.copytree(shards, work / "copy")
    curate(real, work / "two", shards, work / "copy")
    twice = checks.summary(work / "two")["samples"]
    rows = checks.decisions(work / "two")
    kept = {(r["uid"]) for r in rows if r["kept"]}
    assert twice["in"] == len(rows) == 2 * figures["samples"]
    assert twice["dropped"]["repeated_uid"] == figures["samples"]
    assert kept == {r["uid"] for r in checks.decisions(output) if r["kept"]}
    checks.representatives_stand(work / "two", work / "store")
    figures["repeated in the copied folder"] = twice["dropped"]["repeated_uid"]
    assert {p.name: p.stat().st_mtime_ns for p in shards.iterdir()} == before, "the input was modified"

    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
