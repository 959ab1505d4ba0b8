"""`made COMMAND --help`: says what the docstring says, in paragraphs that fill the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import main  # noqa: F401  it adds the commands
from flows.cli.app import app

WIDTH = 80


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


EVERY = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_shows_its_text_in_full_lines(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Markdown would drop <words> and *words*; without it the line breaks of a docstring stay."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    shown = CliRunner().invoke(app, [*path, "--help"]).output
    words = " ".join("".join(c for c in shown if c not in "│╭╮╰╯─").split())
    text = inspect.cleandoc(EVERY[path].help or "")
    for paragraph in text.split("\n\n"):
        assert " ".join(paragraph.replace("`", "").split()) in words
    for parameter in EVERY[path].params:
        for word in (getattr(parameter, "help", None) or "").split():
            assert word in words, parameter.name
    lines = [line.strip() for line in shown.split("╭")[0].splitlines()]
    for line, following in pairwise(lines):
        if line and following:
            assert len(line) + 1 + len(following.split()[0]) > WIDTH - 2, line
