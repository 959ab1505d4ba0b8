"""Names of flow runs: the output's last folder and the date; a retry says so."""

from __future__ import annotations

from datetime import datetime, timezone
from posixpath import basename
from typing import Any

from prefect.runtime import flow_run

UNNAMED = "output"


def of_curate() -> str:
    """`curated 2026-11-25 21:46`; for a request that is not valid, as much as it says."""
    recipe: Any = flow_run.parameters.get("recipe")
    output = recipe.get("output") if isinstance(recipe, dict) else getattr(recipe, "output", None)
    return named(output)


def named(output: object) -> str:
    """`curated 2026-11-25 21:46`, for an output of that name."""
    return f"{folder(output)} {_now()}"


def of_retry() -> str:
    """`retry of 20261123-104006-bd89 2026-11-25 21:46`, until the run's output is known."""
    return retry_of(str(flow_run.parameters.get("run", "")))


def retry_of(output: str) -> str:
    """`retry of curated 2026-11-25 21:46`."""
    return f"retry of {folder(output)} {_now()}"


def folder(output: object) -> str:
    """The last folder of a path or URL."""
    name = basename(output.rstrip("/")) if isinstance(output, str) else ""
    return " ".join(name.split())[:100] or UNNAMED


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}"
