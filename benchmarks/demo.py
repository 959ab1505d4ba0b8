"""`make demo`: precision and recall on planted duplicates: `python -m benchmarks.demo SAMPLE OUTPUT`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from made_core.sample.score import score

GOAL = 0.95  # for precision and recall


def main(sample: Path, output: Path) -> int:
    """Prints the score; returns 0 if the goal is met."""
    truth = json.loads((sample / "truth.json").read_text(encoding="utf-8"))
    rows = ds.dataset(output / "decisions", format="parquet").to_table().to_pylist()
    result = score(truth["groups"], [(r["uid"], r["kept"], r["represented_by"]) for r in rows])
    table = Table(title="planted duplicates")
    for name in ("planted", "dropped", "correct", "precision", "recall", "goal"):
        table.add_column(name, justify="right")
    counts = (result.planted, result.dropped, result.correct)
    table.add_row(*map(str, counts), f"{result.precision:.3f}", f"{result.recall:.3f}", f">= {GOAL}")
    console = Console()
    console.print(table)
    console.print(f"report: {output / 'report.html'}", highlight=False, soft_wrap=True)
    print(json.dumps({k: round(v, 4) for k, v in asdict(result).items()}))
    return 0 if min(result.precision, result.recall) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
