"""Fixtures of several files, and a guard: unit tests must not start servers."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.support.s3 import BUCKET, server

if TYPE_CHECKING:
    from made_core.embed.encoder import Encoder  # torch, which most unit tests need not load

SERVERS = {"initdb", "pg_ctl", "postgres", "gcs_server", "raylet", "ray", "prefect", "uvicorn", "made"}


@pytest.fixture(autouse=True)
def no_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a unit test that listens on a socket or starts a server."""
    if request.node.get_closest_marker("unit") is None:
        yield
        return
    start = subprocess.Popen.__init__

    def listen(*_: object) -> None:
        pytest.fail("a unit test listens on a socket: mark it `integration`")

    def popen(self: subprocess.Popen[Any], args: Any, *more: Any, **options: Any) -> None:
        words = args.split() if isinstance(args, str) else [os.fspath(word) for word in args]
        if found := SERVERS.intersection(Path(os.fsdecode(word)).name for word in words):
            pytest.fail(f"a unit test starts {found.pop()}: mark it `integration`")
        start(self, args, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "listen", listen)
        patch.setattr(subprocess.Popen, "__init__", popen)
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of the bucket on a local S3 server, as another process would use."""
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


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local folder, then one in the object store."""
    return str(tmp_path / "folder") if request.param == "local" else request.getfixturevalue("s3")


@pytest.fixture
def tar(tmp_path: Path) -> Iterator[Path]:
    """The path of a test's tar."""
    yield tmp_path / "00000.tar"


@pytest.fixture(scope="module")
def builtin() -> Encoder:
    """The encoder without weights, with small batches."""
    from made_core import recipe
    from made_core.embed import encoder
    from tests.support.embedding import BATCH

    return encoder.load(encoder.resolve(recipe.Encoder(device="cpu", batch_size=BATCH)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The config and the checkpoint of a small open_clip model."""
    from tests.support.factories import tiny_open_clip

    return tiny_open_clip(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def no_cache() -> Iterator[None]:
    """No loaded encoder is found in the cache, and none stays in it."""
    from made_core.embed import encoder

    encoder.load.cache_clear()
    yield
    encoder.load.cache_clear()
