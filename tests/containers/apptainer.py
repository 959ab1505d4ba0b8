"""made.def: its steps in a system by debootstrap, and its commands as Apptainer runs them."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

from tests.containers.image import OFFLINE
from tests.support.checks import ROOT
from tests.support.containers.build import Builder
from tests.support.containers.definition import Definition
from tests.support.containers.dockerfile import PATH
from tests.support.containers.root import Layer, Mount, Root, overlay

USER = 1000
STAND_IN = """#!/bin/sh
set -eu
[ "$1" = exec ]
shift
while :; do
    case $1 in
        --nv) shift ;;
        --bind) shift 2 ;;
        *) break ;;
    esac
done
shift # the image
exec chroot {root} /bin/sh -c {inside} "$PWD" "$@"
"""
COMMANDS = (
    ["--help"],
    ["sample", "{data}/sample"],
    ["curate", "--source", "{data}/sample/shards", "--output", "{data}/output"],
)


def build(builder: Builder, definition: Definition, folder: Path) -> tuple[Layer, ...]:
    """Copies the files and runs the steps, as root and in one layer, as Apptainer does."""
    base = builder.base(definition.header["From"])
    upper = folder / "apptainer"
    upper.mkdir()
    copies = [Mount(builder.context / source, target) for source, target in definition.files]
    root = Root((base,), folder, {"PATH": PATH}, upper=upper, copies=copies)
    root.run(["/bin/sh", "-e", "-c", definition.sections["post"]])
    return (base, Layer("%post", upper))


def commands(folder: Path, layers: tuple[Layer, ...], definition: Definition) -> None:
    """Runs the image's own test and made's commands: offline, read-only, with the caller's home folder.

    Raises CalledProcessError if one fails, AssertionError if the output is not whole.
    """
    home = folder / "home"
    loaded = home / "modules"  # what a host has loaded for its own Python must not reach the image's
    loaded.mkdir(parents=True)
    (loaded / "ray.py").write_text("raise SystemExit('the module of the host was imported')\n")
    for path in (home, loaded):
        os.chown(path, USER, USER)
    # Apptainer adds the caller to the image's users.
    users = folder / "passwd"
    known = (layers[0].folder / "etc" / "passwd").read_text()
    users.write_text(f"{known}caller:x:{USER}:{USER}::{home}:/bin/sh\n")
    environment = {"PATH": PATH, "HOME": str(home), "PYTHONPATH": str(loaded), "PYTHONHOME": str(loaded)}
    root = Root(
        layers, folder, environment, f"{USER}:{USER}", str(home),
        mounts=(Mount(home, str(home)), Mount(users, "/etc/passwd")), network={}, tmpfs=("/tmp",),
        is_read_only=True, has_capabilities=False,
    )  # fmt: skip
    run = definition.sections["environment"] + definition.sections["runscript"]
    test = definition.sections["environment"] + definition.sections["test"]
    scripts = [["/bin/sh", "-e", "-c", test]]
    scripts += [["/bin/sh", "-c", run, "made", *(w.format(data=home) for w in words)] for words in COMMANDS]
    for script in scripts:
        subprocess.run([*OFFLINE, *root.argv(script)], check=True, stdin=subprocess.DEVNULL)
    assert (home / "output" / "summary.json").stat().st_uid == USER
    assert (home / ".made").exists(), "the ledger is not in the caller's home folder"


def in_a_job(folder: Path, layers: tuple[Layer, ...], definition: Definition) -> None:
    """Runs a job's script of docs/pbs.md, "Modules and containers", on one node: Ray and a run in the image.

    A stand-in for `apptainer exec` enters the image as Apptainer does: the host's processes, network and
    environment, the image's PATH, the same working directory. Raises CalledProcessError if the script fails.
    """
    home, bin_folder = folder / "job", folder / "bin"
    home.mkdir()
    bin_folder.mkdir()
    root, upper, scratch = (folder / name for name in ("image", "image.upper", "image.work"))
    for path in (root, upper, scratch):
        path.mkdir()
    stand_in = bin_folder / "apptainer"
    inside = f'PATH={PATH}; cd "$0"; {definition.sections["environment"]}exec "$@"'
    stand_in.write_text(STAND_IN.format(root=root, inside=shlex.quote(inside)))
    stand_in.chmod(0o755)
    (home / "hosts.txt").write_text(f"{socket.gethostname()}\n")
    binds = "".join(f"mkdir -p {root}{path}; mount --rbind {path} {root}{path}\n"
                    for path in ("/dev", "/proc", "/tmp", str(home)))  # fmt: skip
    binds += f"touch {root}/etc/hosts; mount --bind /etc/hosts {root}/etc/hosts\n"
    enter = f"set -e\n{overlay(layers, upper, scratch, root)}\n{binds}exec bash {home}/job.sh"
    (home / "job.sh").write_text(
        f"set -e\nexport HOME={home} MADE_HOSTFILE={home}/hosts.txt\ncd {home}\n"
        f"PATH={bin_folder}:$PATH\n{job_lines()}"
        "made_python -m flows.cli sample sample\n"
        "made_python -m flows.cli curate --source sample/shards --output output\n"
        "stop_ray_cluster\n"
    )
    own = {"PATH": os.environ["PATH"], "TMPDIR": "/tmp"}
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    argv = [*OFFLINE, *spaces, "sh", "-c", enter]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, env=own)
    assert (home / "output" / "summary.json").exists()


def job_lines() -> str:
    """The lines for containers in docs/pbs.md, with the checkout's scripts."""
    text = (ROOT / "docs" / "pbs.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(export MADE_CONTAINER=.*?)```", text, re.DOTALL)
    return str(block).replace("/path/to/made", str(ROOT))
