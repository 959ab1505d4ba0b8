"""The figures of a finished run, counted again from its stored rows, files and pages."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from flows import generation
from made_core.cluster import cluster_rows
from made_core.corpus import identity
from made_core.dedup import near_pairs
from made_core.dedup.pair_recall import compared, probes_of
from made_core.ledger.ledger import Ledger
from made_core.vectors import cosine
from tests.support import checks


def agree(url: str, run: str, output: Path) -> None:
    """Checks that summary, report, sweep, decisions and stored pairs say what the stored rows do.

    `made sweep` must have written its files with the run's eps among others.
    """
    summary = checks.summary(output)
    samples, dedup = summary["samples"], summary["dedup"]
    eps, bound = dedup["eps"], 1 - dedup["eps_max"]
    with closing(Ledger.open(url)) as ledger:
        found = generation.of(ledger, run)
    known = identity.read(found.resolve_files.identities)
    gids = known.images
    rows = found.corpus.gather(gids)
    batches = tuple(found.batches.values())
    probes = probes_of(batches, gids)

    # Every pair that was compared, from the stored rows, in float64.
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    i, j = np.nonzero(np.triu(unit @ unit.T, 1) > bound - 1e-9)
    value = cosine(rows[i], rows[j])
    near = (value > bound) & compared(probes[i], probes[j])
    i, j, value = i[near], j[near], value[near]
    crowded = found.resolve_files.crowded
    home_i, home_j = probes[i, 0], probes[j, 0]
    # A pair of two homes is reported by one of them; with a single probe both homes are the same.
    stored = ~np.isin(home_i, crowded) & ~np.isin(home_j, crowded)
    assert probes.shape[1] == 1 or not crowded, "the recount assumes one probe where clusters are crowded"
    on_disk = near_pairs.read(found.resolve_files.pairs)
    expected = set(zip(gids[i[stored]].tolist(), gids[j[stored]].tolist(), strict=True))
    assert set(zip(on_disk["i"].tolist(), on_disk["j"].tolist(), strict=True)) == expected
    assert len(on_disk) == dedup["pairs"] == len(expected), "each pair once"
    assert dedup["crowded_clusters"] == len(crowded)
    assert dedup["crowded_rows"] == cluster_rows.sizes(batches)[list(crowded)].sum()

    # The decisions.
    table = checks.decisions(output)
    reasons = Counter(row["reason"] or "kept" for row in table)
    kept = {row["uid"]: row for row in table if row["kept"]}
    unreadable = reasons.pop("unreadable", 0)
    assert samples["in"] == len(table) and samples["unreadable"] == unreadable
    assert samples["kept"] == reasons.pop("kept") and samples["dropped"] == dict(reasons)
    gid_of = {uid.decode(): gid for gid, uid in enumerate(known.uids.tolist())}
    pairs_of = [(gid_of[r["uid"]], gid_of[r["represented_by"]], r["similarity"])
                for r in table if r["reason"] in ("near_duplicate", "exact_copy")]  # fmt: skip
    left, right, said = (np.array(side) for side in zip(*pairs_of, strict=True))
    left, right = known.canonical[left], known.canonical[right]
    again = np.where(left == right, 1.0, cosine(found.corpus.gather(left), found.corpus.gather(right)))
    assert np.abs(again - said).max() < 1e-12 and (again > 1 - eps).all()
    assert all(row["represented_by"] in kept for row in table if row["reason"] == "near_duplicate")
    assert summary["promise"] == {"checked": len(pairs_of), "recomputed": len(pairs_of), "broken": 0}
    # No two kept images that were compared are within eps.
    stays = np.isin(gids, known.canonical[[gid_of[uid] for uid in kept]])
    assert not (stays[i] & stays[j] & (value > 1 - eps)).any()

    # The report: its table of outcomes and its histogram.
    text = words((output / "report.html").read_text())
    assert f"{samples['kept']:,} of {samples['in']:,} samples kept" in text
    for label, count in (
        ("Near-duplicate", samples["dropped"]["near_duplicate"]),
        ("Exact copy", samples["dropped"].get("exact_copy", 0)),
        ("Unreadable", unreadable),
        ("Pairs stored", dedup["pairs"]),
    ):
        assert re.search(rf"{label} {count:,}\b", text) or not count, (label, count)
    bars = re.findall(
        r"(\d\.\d{4}) to (\d\.\d{4}): ([\d,]+) pairs?\b", words((output / "report.html").read_text())
    )
    in_bars = {(low, high): int(count.replace(",", "")) for low, high, count in bars}
    assert sum(in_bars.values()) == dedup["pairs"], "the bars hold every stored pair, each bin once"
    above = int((on_disk["similarity"] > 1 - eps).sum())
    counted = re.search(r"([\d,]+) \([^)]*%\) of them (?:is|are) above|Between ([\d,]+) and ([\d,]+)", text)
    if dedup["pairs"]:
        assert counted is not None
        exact, least, most = (int(n.replace(",", "")) if n else None for n in counted.groups())
        assert exact == above if exact is not None else (least or 0) <= above <= (most or 0)

    # The sweep, at the run's eps.
    sweep = json.loads((output / "sweep.json").read_text())
    at_eps = next(step for step in sweep["steps"] if step["eps"] == eps)
    assert at_eps["samples"] == samples["in"] and at_eps["kept"] == samples["kept"]
    assert at_eps["near_duplicates"] == samples["dropped"]["near_duplicate"]
    page = words((output / "sweep.html").read_text())
    for step in sweep["steps"]:
        cells = f"{step['kept']:,} {100 * step['share']:.2f}% {step['near_duplicates']:,}"
        assert f"{cells} {step['in_addition']:,}" in page


def words(page: str) -> str:
    """The text of a page, the titles of its shapes included."""
    bare = re.sub(r"<style.*?</style>|<script.*?</script>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())
