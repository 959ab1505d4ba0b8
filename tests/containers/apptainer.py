"""made.def: its steps in a system by debootstrap, and its commands as Apptainer runs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.containers.image import OFFLINE
from tests.support.containers.build import Builder
from tests.support.containers.definition import Definition
from tests.support.containers.dockerfile import PATH
from tests.support.containers.root import Layer, Mount, Root

USER = 1000
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
    environment = {"PATH": PATH, "HOME": str(home), "PYTHONPATH": str(loaded), "PYTHONHOME": str(loaded)}
    root = Root(
        layers, folder, environment, f"{USER}:{USER}", str(home),
        mounts=(Mount(home, str(home)),), network={}, tmpfs=("/tmp",), is_read_only=True,
        has_capabilities=False,
    )  # fmt: skip
    run = definition.sections["environment"] + definition.sections["runscript"]
    test = definition.sections["environment"] + definition.sections["test"]
    scripts = [["/bin/sh", "-e", "-c", test]]
    scripts += [["/bin/sh", "-c", run, "made", *(w.format(data=home) for w in words)] for words in COMMANDS]
    for script in scripts:
        subprocess.run([*OFFLINE, *root.argv(script)], check=True, stdin=subprocess.DEVNULL)
    assert (home / "output" / "summary.json").stat().st_uid == USER
    assert (home / ".made").exists(), "the ledger is not in the caller's home folder"
