"""Places for files: a folder here, and one in an S3 server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support.s3 import BUCKET, server


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Another process's way to the bucket, on an S3 server on this machine."""
    with server():
        found = boto3.client("s3")
        found.create_bucket(Bucket=BUCKET)
        yield found


@pytest.fixture
def s3(client: Any) -> Iterator[str]:
    """An empty folder in the object store."""
    yield f"s3://{BUCKET}/folder"
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder here, then one in the object store."""
    return str(tmp_path / "folder") if request.param == "local" else request.getfixturevalue("s3")
