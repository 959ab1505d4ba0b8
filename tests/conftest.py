"""What holds for all tests: quiet engines, no user's settings, bounded hypothesis, a kind for each."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Read by Prefect and Ray when they are imported, so set before any test module is.
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
os.environ["PREFECT_SERVER_LOGGING_LEVEL"] = "CRITICAL"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# A quarter of a small run's CPU; the command-line tests, whose servers are their own, keep it.
os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
for name in [n for n in os.environ if n.startswith("MADE_")]:
    del os.environ[name]

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("made", deadline=None, max_examples=50)
settings.load_profile("made")

KINDS = ("unit", "integration", "e2e")


@pytest.hookimpl(tryfirst=True)  # before -m chooses by them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with its folder's kind, but for those that name another themselves."""
    here = Path(__file__).parent
    for item in items:
        if not any(item.get_closest_marker(kind) for kind in KINDS):
            item.add_marker(item.path.relative_to(here).parts[0])
