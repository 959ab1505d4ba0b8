"""The documents match the code, and an invalid region is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate
from made_core import filters
from made_core.stages import STAGES
from tests.support.checks import ROOT

WHOLE = (
    "flows/cli",
    "made_core/ledger/migrations",
    "made_core/ledger/statements",
)  # one row for all their files


def test_the_documents_are_up_to_date() -> None:
    """If this fails: make docs."""
    assert generate.outdated() == []


@pytest.fixture
def only_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other region is expected."""
    monkeypatch.setattr(generate, "REGIONS", {"reasons": generate.reasons})


def tree(root: Path, text: str) -> Path:
    """A root with a README.md without regions, and docs/formats.md."""
    (root / "docs").mkdir()
    (root / "README.md").write_text("# made\n")
    (root / "docs" / "formats.md").write_text(text)
    return root


OPEN, END = "<!-- generated: reasons -->\n", "<!-- end -->\n"


@pytest.mark.usefixtures("only_reasons")
def test_the_text_of_a_region_is_replaced(tmp_path: Path) -> None:
    root = tree(tmp_path, f"before\n{OPEN}stale\n{END}after\n")
    assert generate.outdated(root) == [*generate.FILES, "docs/formats.md"]
    text = generate.generated(root)[root / "docs" / "formats.md"]
    assert text.startswith(f"before\n{OPEN}") and text.endswith(f"\n{END}after\n") and "stale" not in text
    assert all(f"| `{r.name}` | {r.code} | {r.meaning} |" in text for r in filters.REASONS)
    (root / "docs" / "formats.md").write_text(text)
    assert generate.outdated(root) == [*generate.FILES]


@pytest.mark.usefixtures("only_reasons")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{OPEN}stale\n", "formats.md: each"),
        (f"{OPEN}{OPEN}{END}", "formats.md: each"),
        (END, "formats.md: each"),
        (f"{OPEN.replace('reasons', 'seasons')}{END}", r"unknown regions \['seasons'\], known: reasons"),
        ("nothing", r"no document has the regions \['reasons'"),
    ],
)
def test_an_invalid_region_is_reported(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        generate.generated(tree(tmp_path, text))


def test_the_annotated_recipe_is_readable() -> None:
    text = generate.annotated_recipe()
    assert max(map(len, text.splitlines())) <= generate.WIDTH
    assert re.search(r"^  iterations: 20 +# .*\. Allowed: 1 to 1,000\.$", text, re.MULTILINE)
    assert re.search(r"^  # eps: 0\.05 +# Two samples", text, re.MULTILINE)
    for f in filters.FILTERS:
        line = rf"^  # {f.field}: {f.example} +# {re.escape(f.description)}"
        assert re.search(line, text, re.MULTILINE), f.field


@pytest.mark.parametrize(
    "path", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
)
def test_links_lead_to_files_and_headings(path: str) -> None:
    here = ROOT / path
    for target, anchor in re.findall(
        r"\]\((?!http)([^)\s#]*)(?:#([^)\s]+))?\)", here.read_text(encoding="utf-8")
    ):
        found = (here.parent / target) if target else here
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


def test_the_architecture_has_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+\.py)`", text)) | {
        f"{stage.name}.py" for stage in STAGES
    }  # "embed.py to write.py"
    modules = [
        p.relative_to(ROOT)
        for package in ("made_core", "tasks", "flows")
        for p in (ROOT / package).rglob("*.py")
    ]
    missing = [str(p) for p in modules if p.name not in listed and not p.name.startswith("__")
               and not str(p).startswith(WHOLE)]  # fmt: skip
    assert not missing
