"""The output of commands in a pipe or a file."""

from __future__ import annotations

import logging

import pytest
from rich.table import Table

from flows.console import console
from flows.progress import Display, shown


def test_nothing_is_cut_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = f"/{'folder/' * 30}00000.tar"
    table = Table()
    for name in ("input", "output"):
        table.add_column(name)
    table.add_row(path, path)
    console().print(table)
    assert capsys.readouterr().out.count(path) == 2


def test_a_line_of_a_run_is_not_wrapped_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("flows.progress.get_run_logger", logging.getLogger)
    text = f"run r1: 3 shards -> /{'a folder/' * 20}out"
    with shown():
        Display().say(text)
    assert capsys.readouterr().err == f"{text}\n"
