"""Checks that damaged tars and images affect only their own samples.

    python -m tests.fuzz --cases 10000 --seed 0
    python -m tests.fuzz --seed 0 --first 4711 --cases 1

Each case is a tar with seeded random damage, embedded with the product's code in a process with limited
memory. Prints the outcomes by kind of damage and one JSON line; exits 0 only if every sample was accounted
for, nothing crashed or hung, and the memory limit was not exceeded.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.box import MIB, Box
from tests.fuzz.cases import make

KEPT = Path("build/fuzz")  # the tars of findings


def main() -> int:
    """Returns 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=int, default=256, help="MiB that a case may use")
    parser.add_argument(
        "--seconds", type=float, default=20, help="seconds after which a case counts as hanging"
    )
    given = parser.parse_args()
    console, start = Console(width=140), time.monotonic()
    box = Box("tests.fuzz.judge:judged", given.seed, given.memory * MIB, given.seconds)
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, findings = (0.0, -1), []
    for verdict in box.run(range(given.first, given.first + given.cases)):
        case = make(given.seed, verdict.number)
        slowest = max(slowest, (verdict.seconds, verdict.number))
        rows[case.name].update({"cases": 1} | verdict.counts)
        if verdict.wrong:
            rows[case.name]["findings"] += 1
            KEPT.mkdir(parents=True, exist_ok=True)
            kept = KEPT / f"{given.seed}-{verdict.number}.tar"
            kept.write_bytes(case.tar)
            findings.append({"case": verdict.number, "damage": case.name, "wrong": verdict.wrong})
            console.print(f"seed {given.seed}, case {verdict.number}, {case.name}: {verdict.wrong}; {kept}",
                          highlight=False, markup=False, soft_wrap=True)  # fmt: skip
    total = sum(rows.values(), Counter())
    columns = ("cases", "refused", "embedded", "unreadable", "findings")
    table = Table(
        title=f"{given.cases:,} cases, seed {given.seed}; refused tars and the samples of the others"
    )
    table.add_column("damage")
    for name in columns:
        table.add_column(name, justify="right")
    for name, row in (*sorted(rows.items()), ("all", total)):
        table.add_row(name, *(f"{row[c]:,}" for c in columns), end_section=name == max(rows))
    console.print(table)
    seconds = time.monotonic() - start
    print(f"limit: RLIMIT_DATA, {given.memory} MiB beyond the loaded process, enforced; a case used "
          f"{box.peak / MIB:.0f} MiB at most; slowest: case {slowest[1]}, {slowest[0]:.2f} s")  # fmt: skip
    print(json.dumps({"seed": given.seed, **{c: total[c] for c in columns}, "limit_mib": given.memory,
                      "peak_mib": round(box.peak / MIB, 1), "slowest_seconds": round(slowest[0], 2),
                      "processes": box.starts, "seconds": round(seconds, 1),
                      "found": findings[:20]}))  # fmt: skip
    return 1 if findings or total["cases"] != given.cases else 0


if __name__ == "__main__":
    sys.exit(main())
