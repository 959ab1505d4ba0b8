"""The console of a command's output: it cuts and wraps nothing where stdout is not a terminal."""

from __future__ import annotations

from rich.console import Console

ENDLESS = 100_000  # columns


def console() -> Console:
    """A console on stdout. Without a terminal, rich would fit everything into 80 columns."""
    out = Console()
    return out if out.is_terminal else Console(width=ENDLESS)
