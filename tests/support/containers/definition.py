"""An Apptainer definition file: its header, and its sections as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SECTION = re.compile(r"^%(\w+)[ \t]*\n", re.MULTILINE)
KNOWN = {"files", "post", "environment", "runscript", "test", "labels", "help"}


@dataclass(frozen=True)
class Definition:
    """What the file says; a section that it does not have is empty."""

    header: dict[str, str]
    sections: dict[str, str]

    @property
    def files(self) -> list[tuple[str, str]]:
        """Sources in the build's folder and their places in the image."""
        lines = [line.split() for line in self.sections["files"].splitlines() if line.strip()]
        return [(words[0], words[1]) for words in lines]


def read(path: Path) -> Definition:
    """Reads the file. Raises ValueError for a section that is not known here."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    header, *parts = SECTION.split("".join(lines))
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if unknown := set(sections) - KNOWN:
        raise ValueError(f"{path}: sections {sorted(unknown)} are not known to the tests")
    words = dict(line.split(": ", 1) for line in header.splitlines() if line.strip())
    return Definition(words, sections)
