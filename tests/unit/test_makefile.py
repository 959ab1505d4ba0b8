"""The environment that the Makefile sets for its programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

STORES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


@pytest.mark.parametrize(("setting", "expected"), [(None, "true"), ("false", "false")])
def test_uv_uses_the_system_certificates(setting: str | None, expected: str) -> None:
    """If the system has certificates and the user does not override: under both names of the setting."""
    names = ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS")
    environment = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("MAKE")}
    if setting is not None:
        environment.update(dict.fromkeys(names, setting))
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", f"show: ; @echo $${names[0]} $${names[1]}", "show"],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    has_store = any(Path(store).exists() for store in STORES)
    assert done.stdout.split() == ([expected] * 2 if has_store or setting else [])
