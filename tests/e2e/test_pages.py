"""Report, sweep and review of real runs in a browser, and their figures against a recount.

Leaves pictures of the pages in build/screenshots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from made_core.errors import UserError
from made_core.ledger.ledger import Ledger
from made_core.report.eps_sweep import Sweep
from made_core.sample.write import write_sample
from tests.support import browser, figures
from tests.support.browser import Page
from tests.support.runs import Curate

WIDTHS = (1280, 420)  # pixels of a desk and of a telephone


def sweep(url: str, run: str, eps: tuple[float, ...] = (), marks: Path | None = None) -> Sweep:
    from flows.sweep import sweep as look

    with closing(Ledger.open(url)) as ledger:
        return look(ledger, run, eps, None if marks is None else str(marks))


def look_at(page: Page, folder: Path, samples: int) -> None:
    """Takes pictures of the pages, wide and narrow, light and dark; nothing on them may be unreadable."""
    for name in ("report", "sweep", "review"):
        page.open((folder / f"{name}.html").as_uri(), "made")
        for width in WIDTHS:
            for dark in (False, True):
                page.look(width, dark)
                page.whole(f"{name}-{samples}-{width}-{'dark' if dark else 'light'}")
                assert page.faults() == [], (name, width, dark)


@browser.needed
@pytest.mark.parametrize("samples", [12, 1200])
def test_pages(
    servers: str, curate: Curate, tmp_path: Path, samples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With few samples; with many, some of whose clusters are crowded."""
    source, output, saved = tmp_path / "sample", tmp_path / "out", tmp_path / "saved"
    many = samples > 100
    write_sample(source, samples=samples, shards=4 if many else 1, seed=1, image_size=160)
    parts = {
        "audit": {"queries": 0},
        "clusters": {"k": 16 if many else 2, "probes": 1},
        "work": {"pairs_per_sample": 1 if many else 32},
    }
    summary = curate(source / "shards", output=output, **parts)
    run, crowded = summary["run"], summary["dedup"]["crowded_clusters"]
    assert 0 < crowded < 16 if many else crowded == 0
    steps = sweep(servers, run).steps
    figures.agree(servers, run, output)
    review(servers, run)
    with browser.page(tmp_path / "profile") as page:
        look_at(page, output, samples)
        saved.mkdir()
        page.downloads(saved)
        read_off = mark(page, output / "review.html", saved)
    file = saved / f"marks-{run}.json"
    marked = sweep(servers, run, marks=file).steps
    assert [step.eps for step in marked] == [step.eps for step in steps]
    shown = [f"{f.estimate:.3f} ({f.low:.3f} to {f.high:.3f})" if f and f.estimate is not None else "\u2013"
             for step in marked for f in (step.precision, step.precision_up_to)]  # fmt: skip
    assert shown == read_off, "page and command compute the same precision"
    assert any(step.precision_up_to and 0 < (step.precision_up_to.estimate or 0) < 1 for step in marked)
    text = figures.words((output / "sweep.html").read_text())
    assert "Precision up to it" in text and all(one in text for one in shown)
    if not many:
        assert [step.eps for step in steps] == [0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24]
        refuses(servers, run, file)
        capsys.readouterr()
        review(servers, run, (1e-9,))
        assert capsys.readouterr().out.startswith("no pairs to mark: up to eps 1e-09 no near-")
        curate(source / "shards", output=output, dedup={"eps": 0.01}, replace=True, **parts)
        assert not list(output.glob("sweep.*")) and not (output / "review.html").exists()
        with pytest.raises(UserError, match="is replaced"):
            sweep(servers, run)


def review(url: str, run: str, eps: Sequence[float] = ()) -> None:
    from flows.review import write

    with closing(Ledger.open(url)) as ledger:
        write(ledger, run, eps)


def mark(page: Page, file: Path, saved: Path) -> list[str]:
    """Marks pairs by keyboard, reloads, saves; returns the precisions that the page shows."""
    page.look(WIDTHS[0])
    text = page.open(file.as_uri(), "Are these duplicates?", "0 of")
    number = int(re.findall(r"0 of (\d+) pairs marked", text)[0])
    page.keys("nnp")
    page.wait(f"Pair 2 of {number}")
    page.keys("p")
    page.wait(f"Pair 1 of {number}")
    wrong = min(3, number - 1)
    page.keys("w" * wrong + "r" * (number - wrong))
    page.wait(f"{number} of {number} pairs marked")
    page.keys("u")
    page.wait(f"{number - 1} of {number} pairs marked", "not marked")
    shown = page.labels("#precision ~ * tbody td")
    page.open(file.as_uri(), f"{number - 1} of {number} pairs marked", "not marked")
    assert page.labels("#precision ~ * tbody td") == shown, "the marks survive"
    page.keys("r")
    page.wait(f"{number} of {number} pairs marked", "marked right")
    page.whole(f"marked-{number}")
    page.click("Save marks")
    WebDriverWait(page.driver, browser.PATIENCE).until(lambda _: list(saved.glob("*.json")))
    cells = page.labels("#precision ~ * tbody td")
    return [cells[n] for n in range(len(cells)) if n % 5 in (3, 4)]


def refuses(url: str, run: str, file: Path) -> None:
    """Other eps, damaged marks and marks of something else end with one sentence."""
    for eps in (0.25, 0.0):
        with pytest.raises(UserError, match="up to the run's eps_max, 0\\.24; for a larger one"):
            sweep(url, run, (eps,))
    with pytest.raises(UserError, match="no run nonsense"):
        sweep(url, "nonsense")
    good = json.loads(file.read_text())
    other = good["marks"][0] | {"kept": "f" * 32}
    for changes, sentence in (
        ({"run": "another"}, "is of run another, not of run"),
        ({"decisions_digest": "0"}, "of earlier decisions"),
        ({"eps": []}, "eps: List should have at least 1 item"),
        ({"eps": [0.9]}, "eps is 0.9, allowed"),
        ({"marks": [{"right": "yes"}]}, "is not one that a page of `made review` saved"),
        ({"marks": [other]}, "does not remove sample .* because of ffff"),
        ({"marks": good["marks"][:1] * 2}, "is marked twice"),
    ):
        file.write_text(json.dumps(good | changes))
        with pytest.raises(UserError, match=sentence):
            sweep(url, run, marks=file)
    file.write_text("{")
    with pytest.raises(UserError, match="is not one that a page of `made review` saved: Invalid JSON"):
        sweep(url, run, marks=file)
    with pytest.raises(UserError, match="there is no such file"):
        sweep(url, run, marks=file.with_name("none.json"))
    with pytest.raises(UserError, match="exclude each other"):
        sweep(url, run, (0.1,), file)
