"""Prefect's clients read one certificate where they need none, and all of them elsewhere."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_URL, temporary_settings

from flows.plain_http import fast_clients
from made_core.settings import settings

UNSET = {PREFECT_API_SSL_CERT_FILE}


def test_http() -> None:
    """A client can be made, and the file is gone afterwards."""
    url = {PREFECT_API_URL: "http://127.0.0.1:1/api"}
    with temporary_settings(url, restore_defaults=UNSET):
        before = PREFECT_API_SSL_CERT_FILE.value()
        with fast_clients():
            path = Path(PREFECT_API_SSL_CERT_FILE.value())
            assert len(ssl.create_default_context(cafile=path).get_ca_certs()) == 1
            get_client(sync_client=True)
        assert PREFECT_API_SSL_CERT_FILE.value() == before
    assert not path.exists()


def test_a_file_that_was_chosen_stays() -> None:
    """The user's, or that of an earlier call."""
    chosen = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_API_SSL_CERT_FILE: "/etc/ssl/own.pem"}
    with temporary_settings(chosen), fast_clients():
        assert PREFECT_API_SSL_CERT_FILE.value() == "/etc/ssl/own.pem"


def test_https() -> None:
    """Certificates are checked, so nothing changes."""
    url = {PREFECT_API_URL: "https://prefect.example.org/api"}
    with temporary_settings(url, restore_defaults=UNSET):
        before = PREFECT_API_SSL_CERT_FILE.value()
        with fast_clients():
            assert PREFECT_API_SSL_CERT_FILE.value() == before


def test_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other hosts do not have the file."""
    for name in ("MADE_RAY_ADDRESS", "RAY_ADDRESS"):
        url = {PREFECT_API_URL: "http://head:4200/api"}
        with monkeypatch.context() as patched, temporary_settings(url, restore_defaults=UNSET):
            patched.setenv(name, "head:6379")
            settings.cache_clear()
            before = PREFECT_API_SSL_CERT_FILE.value()
            with fast_clients():
                assert PREFECT_API_SSL_CERT_FILE.value() == before
    settings.cache_clear()
