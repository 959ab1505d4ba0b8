"""Imports that would cost seconds, where a command is to answer at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(module: str) -> Iterator[None]:
    """Lets a library be imported without an optional `module` of its own, such as torch.

    Where that is imported already, nothing changes. What is imported inside keeps to doing without it.
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
