"""The image's own commands, offline and as its user."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.containers.dockerfile import Stage
from tests.support.containers.root import Layer, Mount, Root

LARGEST = 8  # packages that are named
# Runs a command in a network namespace that has only loopback.
OFFLINE = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]


def commands(folder: Path, layers: tuple[Layer, ...], stage: Stage) -> None:
    """Runs `made --help`, `made sample`, `made curate` and `made status` in a container without a network.

    Raises CalledProcessError if one fails, AssertionError if the output is not whole.
    """
    data, home = folder / "data", folder / "made-home"
    user, group = map(int, stage.user.split(":"))
    assert user != 0, "the image's user is root"
    for path in (data, home):
        path.mkdir()
        os.chown(path, user, group)
    root = Root(
        layers, folder, {**stage.environment, "HOME": "/home/made"}, stage.user, stage.workdir,
        mounts=(Mount(data, "/data"), Mount(home, "/var/lib/made")), hostname="made", network={},
    )  # fmt: skip
    assert not _compilers(root), "a compiler is in the last stage"
    for words in (
        ["--help"],
        ["sample", "/data/sample"],
        ["curate", "--source", "/data/sample/shards", "--output", "/data/output"],
        ["status"],
    ):
        argv = [*OFFLINE, *root.argv([*stage.entrypoint, *words])]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    assert (data / "output" / "summary.json").exists(), "made curate left no summary.json"
    assert (data / "output" / "summary.json").stat().st_uid == user


def packages(layers: tuple[Layer, ...]) -> dict[str, int]:
    """Bytes of the largest folders of packages in the image."""
    found: dict[str, int] = {}
    for layer in layers:
        for folder in layer.folder.glob("opt/made/lib/python*/site-packages"):
            done = subprocess.run(["du", "-sb", *map(str, folder.iterdir())],
                                  check=True, capture_output=True, text=True)  # fmt: skip
            for line in done.stdout.splitlines():
                size, _, path = line.partition("\t")
                found[Path(path).name] = found.get(Path(path).name, 0) + int(size)
    return dict(sorted(found.items(), key=lambda item: -item[1])[:LARGEST])


def _compilers(root: Root) -> str:
    find = ["sh", "-c", "command -v gcc cc g++ clang make || true"]
    return subprocess.run(root.argv(find), check=True, capture_output=True, text=True).stdout.strip()
