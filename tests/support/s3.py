"""A local S3 server (moto) and the environment that directs every client to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Points every S3 client of this process and its children at an endpoint."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def server() -> Iterator[str]:
    """The endpoint of an S3 server, set in the environment while it is running."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            use_s3(monkeypatch, endpoint)
            yield endpoint
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        moto.stop()
