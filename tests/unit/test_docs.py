"""The documents match the code, and an invalid region is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate
from made_core import filters


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
