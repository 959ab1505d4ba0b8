"""Setup of all tests: quiet engines, no user settings, a hypothesis profile, a marker for each kind."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from flows.plain_http import write_certificate
from made_core.settings import settings

# Prefect and Ray read these at import time, so they are set before any test module is imported.
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
os.environ["PREFECT_SERVER_LOGGING_LEVEL"] = "CRITICAL"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# Saves a quarter of the CPU time of a small run; the command-line tests, with their own servers, keep it.
os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
# The clients of all processes read one certificate: servers here have http:// URLs.
CERTIFICATE = tempfile.NamedTemporaryFile(prefix="made-", suffix=".pem")  # noqa: SIM115  until the session ends
write_certificate(Path(CERTIFICATE.name))
os.environ["PREFECT_API_SSL_CERT_FILE"] = CERTIFICATE.name
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Else Ray's workers, which are nicer by 15, hardly run beside another test.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray spells it so
# A session's Ray has one CPU: it would end the idle workers of one run when another one starts its own.
os.environ["RAY_num_workers_soft_limit"] = "8"  # noqa: SIM112
for name in [n for n in os.environ if n.startswith("MADE_")]:
    del os.environ[name]

# Tests started in the background by a shell ignore SIGINT, and their child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Continuous integration tries the same examples each time, so that a failure there can be repeated.
hypothesis_settings.register_profile("made", deadline=None, max_examples=50, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("made")

KINDS = ("unit", "integration", "e2e")


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with the kind of its folder, unless it has a marker of another kind."""
    here = Path(__file__).parent
    for item in items:
        if not any(item.get_closest_marker(kind) for kind in KINDS):
            item.add_marker(item.path.relative_to(here).parts[0])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """MADE_HOME for the settings of this process."""
    monkeypatch.setenv("MADE_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()
