"""User errors are reported at once, before anything starts, and leave no files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from flows import preflight
from made_core.embed import models
from made_core.errors import EncoderError, OutputError, RayAddressError, SourceError
from made_core.io import files, probe
from made_core.recipe import Encoder, Recipe
from made_core.settings import Settings
from tests.support.factories import make_shard, members
from tests.support.s3 import BUCKET

SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # the frame with which an HTTP/2 server begins


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """The address of a server that sends `reply` to each client and waits until it disconnects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionResetError):
                connection.sendall(reply)
                while connection.recv(1024):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.fixture
def place_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the settings that preflight sees."""

    def put(ray: str | None, database: str | None = None) -> None:
        given = Settings(ray_address=ray, database_url=database)
        monkeypatch.setattr(preflight, "settings", lambda: given)

    return put


@pytest.mark.parametrize("field", ["sources", "output", "log_folder"])
def test_folders_that_are_not_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str) -> None:
    """`MADE_ROOTS` confines the command's sources and output, and its log folder."""
    for name in ("in", "out"):
        make_shard(tmp_path / name / "shards", "0", [("0", members(0))])
    place = {
        name: tmp_path / ("out" if name == field else "in") for name in ("sources", "output", "log_folder")
    }
    monkeypatch.setattr(preflight, "settings", lambda: Settings(roots=str(tmp_path / "in")))
    recipe = Recipe(sources=(str(place["sources"] / "shards"),), output=str(place["output"] / "new"))
    with pytest.raises((SourceError, OutputError), match=r"in the folders allowed here"):
        preflight.located(recipe, False, str(place["log_folder"] / "logs"))
    assert not (tmp_path / "in" / "new").exists() and not (tmp_path / "out" / "new").exists()


@pytest.mark.parametrize("address", [None, "", "auto", "local"])
def test_no_head_is_configured(place_of: Callable[..., None], address: str | None) -> None:
    place_of(address)
    preflight.check_ray()


@pytest.mark.integration
def test_a_head_that_answers(place_of: Callable[..., None]) -> None:
    for prefix in ("", "ray://"):
        with answering(SETTINGS) as address:
            place_of(prefix + address)
            preflight.check_ray()


def test_a_missing_head(place_of: Callable[..., None]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        place_of(address)
        with pytest.raises(RayAddressError, match=rf"at {address} \(Connection refused\)"):
            preflight.check_ray()


@pytest.mark.integration
def test_a_head_that_does_not_answer(place_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "RAY_SECONDS", 0.2)
    with answering(b"") as address:
        place_of(address)
        with pytest.raises(RayAddressError, match=rf"no Ray head answers at {address} \(timed out\)"):
            preflight.check_ray()


@pytest.mark.integration
def test_another_server(place_of: Callable[..., None]) -> None:
    with answering(b"SSH-2.0-OpenSSH_9.6\r\n") as address:
        place_of(address)
        with pytest.raises(RayAddressError, match=f"{address} is not a Ray head"):
            preflight.check_ray()


@pytest.mark.parametrize("address", ["host", "host:", ":6379", "host:port", "host:70000", "ray://host"])
def test_an_invalid_address(place_of: Callable[..., None], address: str) -> None:
    place_of(address)
    with pytest.raises(RayAddressError, match=rf"Ray head {address}: expected host:port"):
        preflight.check_ray()


def test_an_unknown_host(place_of: Callable[..., None]) -> None:
    place_of("no-such-host.invalid:6379")
    with pytest.raises(RayAddressError, match=r"unknown host no-such-host\.invalid"):
        preflight.check_ray()


def test_another_host_needs_a_database_that_it_reaches(
    place_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """192.0.2.0/24 is reserved for documentation and assigned to no machine."""
    place_of("192.0.2.7:6379")
    with pytest.raises(RayAddressError, match=r"192\.0\.2\.7:6379 is on another host.*MADE_DATABASE_URL"):
        preflight.check_ray()
    for url in ("postgresql://made:s3cret@127.0.0.1:5433/made", "postgresql:///made?host=/run/made"):
        place_of("192.0.2.7:6379", url)
        with pytest.raises(RayAddressError, match=r"listens on loopback.*made up --listen") as refused:
            preflight.check_ray()
        assert "s3cret" not in str(refused.value)
    place_of("192.0.2.7:6379", "postgresql://db/made")
    monkeypatch.setattr(preflight, "RAY_SECONDS", 0.01)
    with pytest.raises(RayAddressError, match="no Ray head answers"):
        preflight.check_ray()


def test_own_addresses() -> None:
    assert preflight._is_own(socket.AF_INET, "127.0.0.1")
    assert preflight._is_own(socket.AF_INET, "127.0.1.1")
    assert not preflight._is_own(socket.AF_INET, "192.0.2.7")
    name = socket.getaddrinfo(socket.gethostname(), 0, type=socket.SOCK_STREAM)
    assert any(preflight._is_own(family, at[0]) for family, _, _, _, at in name)


def test_writable_folders(place: str, tmp_path: Path) -> None:
    """Nothing is left in them, and they are not created."""
    there = tmp_path / "there"
    there.mkdir()
    for name in (f"{place}/new", str(there), str(tmp_path / "a" / "b" / "c")):
        probe.writable("output", name)
    assert os.listdir(tmp_path) == ["there"] and os.listdir(there) == []
    assert not files.exists(f"{place}/new")


def test_folders_that_are_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, reason in [
        ("/proc/x", "the folder cannot be created"),
        ("/proc/x/y/z", "the folder cannot be created"),
        (str(tmp_path / "file"), "it is not a folder"),
        (str(tmp_path / "file" / "x"), "not a directory"),
        (str(tmp_path / ("x" * 300)), "file name too long"),
        ("s33://bucket/x", "unknown protocol s33"),
    ]:
        with pytest.raises(OutputError, match=rf"^store {name} cannot be written: .*{reason}"):
            probe.writable("store", name)
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_bucket(s3: str) -> None:
    with pytest.raises(OutputError, match=f"output s3://no-such-{BUCKET}/x cannot be written: "):
        probe.writable("output", f"s3://no-such-{BUCKET}/x")


def test_a_folder_without_permission(tmp_path: Path) -> None:
    """Root can write anywhere: tested as another user."""
    tmp_path.chmod(0o755)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    code = f"from made_core.io import probe; probe.writable('output', {str(locked / 'x')!r})"
    if os.geteuid() == 0:
        folders = [folder for folder in locked.parents if not folder.stat().st_mode & 0o001]
        if folders:  # the test's own: of pytest
            for folder in folders:
                folder.chmod(folder.stat().st_mode | 0o001)
        code = f"import os, made_core.io.probe; os.setuid(65534); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"output {locked / 'x'} cannot be written: permission denied" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "ViT-B-23", "pretrained": "openai"}, "has no model ViT-B-23; did you mean ViT-B-32"),
        ({"model": "ViT-B-32", "pretrained": "opnai"}, "ViT-B-32 has no tag opnai.*its tags: openai, "),
        ({"model": "ViT-B-32", "pretrained": "/none.pt"}, "no such file: /none.pt"),
        ({"model": "hf-hub:x/y", "pretrained": "z"}, "expected a model name"),
    ],
)  # fmt: skip
def test_unknown_encoders(fields: dict[str, str], expected: str) -> None:
    with pytest.raises(EncoderError, match=expected):
        models.check(Encoder.model_validate(fields))


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b79k", "laion2b-s34b-b79k"])
def test_known_encoders(tag: str) -> None:
    models.check(Encoder(model="ViT-B-32", pretrained=tag))
    models.check(Encoder())


def test_the_tags_are_open_clips_own() -> None:
    """The list of a process without torch equals open_clip's own."""
    import open_clip

    code = (
        "import sys; from made_core.embed import models; "
        "tags = models.tags().list_pretrained(); assert 'torch' not in sys.modules; print(tags)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(open_clip.list_pretrained())


@pytest.mark.parametrize(
    ("device", "ray", "files", "refused"),
    [
        ("cuda", None, (), True),
        ("cuda", "local", (), True),
        ("cuda", None, ("nvidiactl", "nvidia0"), False),
        ("cuda", "10.0.0.5:6379", (), False),
        ("auto", None, (), False),
        ("cpu", None, (), False),
    ],
)
def test_cuda_where_no_gpu_can_be(
    place_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    device: str, ray: str | None, files: tuple[str, ...], refused: bool,
) -> None:  # fmt: skip
    place_of(ray)
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(preflight, "GPUS", (str(tmp_path / "nvidia*"),))
    monkeypatch.setattr("ctypes.CDLL", _no_library)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    part = Encoder.model_validate({"device": device})
    if refused:
        with pytest.raises(EncoderError, match="device is cuda, but this machine has no GPU; set auto or"):
            preflight.check_gpu(part)
    else:
        preflight.check_gpu(part)
    monkeypatch.setattr("ctypes.CDLL", lambda _: None)  # a driver: a worker will see
    preflight.check_gpu(part)


def _no_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_source_is_never_written_to(place_of: Callable[..., None], tmp_path: Path) -> None:
    place_of(None)
    recipe = Recipe(sources=(str(tmp_path),), output=str(tmp_path / "out"), store=None)
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(OutputError, match="is inside the source"):
        preflight.check(recipe, [str(tmp_path / "0.tar")], None)
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize("what", ["output", "store", "log folder"])
def test_every_folder_of_a_run_has_to_be_writable(
    place_of: Callable[..., None], tmp_path: Path, what: str
) -> None:
    place_of(None)
    (tmp_path / "file").touch()
    (tmp_path / "in").mkdir()
    at = {name: str(tmp_path / name) for name in ("output", "store", "log folder")}
    at[what] = str(tmp_path / "file" / "x")
    recipe = Recipe(sources=(str(tmp_path / "in"),), output=at["output"], store=at["store"])
    with pytest.raises(OutputError, match=f"^{what} {tmp_path}/file/x cannot be written"):
        preflight.check_files(recipe, [str(tmp_path / "in" / "0.tar")], at["log folder"])
