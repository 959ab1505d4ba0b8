"""The blocks of docs/extending.md, applied to a copy of the packages, are all that is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.support import checks
from tests.support.factories import make_shard, members

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(python|diff)\n(.*?)```", re.DOTALL)
DARK = """
from typing import Annotated

import numpy as np
from pydantic import Field

from made_core.filters.filter import Filter
from made_core.reasons import Reason

FILTER = Filter(
    field="min_brightness", type=Annotated[float, Field(ge=0, le=255)], description="Mean luma, at least.",
    example=16.0, columns=("brightness.mean",),
    failed=lambda table, bound: np.nan_to_num(table["brightness.mean"].to_numpy()) < bound,
    reason=Reason(101, "dark", "Dark", "the image is darker than filters.min_brightness"),
)
"""


def apply(block: str, root: Path) -> str:
    """Applies a block of the document: a new file, or lines that follow or replace existing ones."""
    head, _, body = block.partition("\n")
    path = root / head.removeprefix("# ").removeprefix("--- ")
    if head.startswith("# "):
        assert not path.exists()
        path.write_text(body)
        return str(path.relative_to(root))
    lines, at = path.read_text().splitlines(), 0
    for line in body.splitlines():
        kind, text = line[:1], line[1:]
        if kind == "+":
            lines.insert(at, text)
            at += 1
        else:
            at = lines.index(text, at) + (
                kind != "-"
            )  # ValueError: the document shows a line that does not exist
            if kind == "-":
                del lines[at]
    path.write_text("\n".join(lines) + "\n")
    return str(path.relative_to(root))


def section(title: str) -> list[str]:
    """The blocks of a section."""
    text = (ROOT / "docs" / "extending.md").read_text()
    body = text.partition(f"\n## {title}: ")[2].partition("\n## ")[0]
    return [match[2] for match in BLOCK.finditer(body)]


def test_a_filter_and_a_score_need_only_the_listed_places(elsewhere: dict[str, str], tmp_path: Path) -> None:
    code = tmp_path / "code"
    for package in ("made_core", "tasks", "flows"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert len({apply(block, code) for block in section("A filter")}) == 2
    assert len({apply(block, code) for block in section("A score, or any stage")}) == 5
    (code / "made_core/filters/min_brightness.py").write_text(DARK)
    apply(
        "--- made_core/filters/__init__.py\n"
        " from made_core.reasons import BUILTIN, KEPT, UNREADABLE, Codes, Reason\n"
        "+from made_core.filters import min_brightness\n"
        "     max_words.FILTER,\n"
        "+    min_brightness.FILTER,\n",
        code,
    )

    samples = [(f"{n:03d}", members(n, "one two" + " and more" * (n % 3))) for n in range(30)]
    for shard in range(2):
        make_shard(tmp_path / "in", f"{shard:05d}", samples[15 * shard : 15 * shard + 15])
    environment = {
        k: v for k, v in elsewhere.items() if k != "MADE_RAY_ADDRESS"
    }  # with its own Ray, whose workers import the copy
    options = ["filters.max_words=4", "filters.min_brightness=110", "audit.queries=0"]
    made = [sys.executable, "-c", "from flows.cli.main import main; main()"]
    places = ["--source", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    subprocess.run(
        [*made, "curate", *places, *(word for option in options for word in ("--set", option))],
        env={**environment, "PYTHONPATH": f"{code}"}, cwd=code, check=True,
    )  # fmt: skip

    out = tmp_path / "out"
    summary = checks.summary(out)
    assert "brightness" in summary["seconds_by_stage"]
    means: dict[str, float] = {}
    corpora = [pq.read_table(path).to_pylist() for path in out.glob("store/corpora/*.parquet")]
    (corpus,) = [parts for parts in corpora if all(part["tables"] for part in parts)]
    for part in corpus:
        keys = pq.read_table(part["metadata"]["path"])["key"].to_pylist()
        table = pq.read_table(dict(part["tables"])["brightness"]["path"])
        means |= dict(zip(keys, table["mean"].to_pylist(), strict=True))
    assert len(means) == 30 and min(means.values()) < 110 < max(means.values())
    for row in checks.decisions(out):
        words = int(row["key"]) % 3 * 2 + 2
        wanted = "many_words" if words > 4 else "dark" if means[row["key"]] < 110 else None
        assert row["reason"] in (wanted, "near_duplicate" if wanted is None else wanted)
    assert {"many_words", "dark"} <= summary["samples"]["dropped"].keys()
