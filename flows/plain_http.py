"""Prefect's clients without all the certificates that they do not use.

Prefect reads all of certifi's certificates for each client, 30 ms of CPU and several clients a task, also
where its API has an http:// URL (docs/adr/0015). A small run would spend two of five seconds on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import certifi

from made_core.io import files
from made_core.settings import settings

END = "-----END CERTIFICATE-----\n"


def write_certificate(path: Path) -> None:
    """Writes the first of certifi's certificates: a file without any is refused."""
    first, end, _ = Path(certifi.where()).read_text().partition(END)
    path.write_text(first + end)


@contextmanager
def fast_clients() -> Iterator[None]:
    """Inside, Prefect's clients, and those of tasks, read one certificate if the API has an http:// URL.

    Only where Ray starts on this machine: tasks get the name of the file with the flow's settings. A file
    that was chosen stays.
    """
    from prefect.settings import PREFECT_API_SSL_CERT_FILE, get_current_settings, temporary_settings

    api = get_current_settings().api
    is_plain = (api.url or "").startswith("http://")
    is_chosen = api.ssl_cert_file not in (None, os.environ.get("SSL_CERT_FILE"))  # Prefect's default
    if not is_plain or is_chosen or settings().ray_address or os.environ.get("RAY_ADDRESS"):
        yield
        return
    with files.scratch() as folder:
        path = folder / "certificate.pem"
        write_certificate(path)
        with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(path)}):
            yield
