"""Avoids imports that take seconds in commands that should answer at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(module: str) -> Iterator[None]:
    """Hides `module`, such as torch, from libraries imported inside for which it is optional.

    No effect if `module` is already imported. Libraries imported inside do without it from then on.
    """
    modules: dict[str, Any] = sys.modules
    is_loaded = module in modules
    if not is_loaded:
        modules[module] = None
    try:
        yield
    finally:
        if not is_loaded:
            del modules[module]
