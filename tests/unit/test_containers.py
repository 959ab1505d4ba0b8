"""The container files: lint, the compose specification, and each variable, image and port said once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checks import ROOT
from tests.support.containers import compose, dockerfile

DOCKER = ROOT / "docker"
FILE, COMPOSE = DOCKER / "Dockerfile", DOCKER / "compose.yaml"


def test_hadolint_is_clean() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([lint, "--config", ROOT / ".hadolint.yaml", FILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_follows_the_specification() -> None:
    checked, values = compose.load(COMPOSE, {})
    assert checked.services is not None and set(checked.services) == set(values["services"])
    for name, service in values["services"].items():
        assert "healthcheck" in service or service["restart"] == "on-failure", name


def test_every_variable_has_a_default_and_can_be_set(tmp_path: Path) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names
    for name in names:
        _, default = compose.load(COMPOSE, {})
        _, changed = compose.load(COMPOSE, {name: "1234"})
        assert default != changed, name
    path = tmp_path / "compose.yaml"
    path.write_text("name: ${MADE_X}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="MADE_X: no value and no default"):
        compose.load(path, {})


def test_images_and_ports_are_named_once() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    assert len(re.findall(r"image:.*made", text)) == 1
    published = re.findall(r":(\d+)$", "\n".join(re.findall(r"- \$\{MADE_LISTEN.*", text)), re.MULTILINE)
    assert len(published) == len(set(published)) == 3


def test_the_image_has_an_ordinary_user_and_made_as_entrypoint() -> None:
    last = dockerfile.read(FILE)[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last.user)
    assert last.entrypoint[-1] == "made" and last.command == ["--help"]
    assert last.labels["org.opencontainers.image.title"] == "made"
    assert not any("python3-venv" in step.value for step in last.steps)


def test_the_lock_pins_the_image() -> None:
    (install,) = [
        s for stage in dockerfile.read(FILE) for s in stage.steps if "requirement pyproject" in s.value
    ]
    assert "--require-hashes" in install.value and "--constraint requirements.lock" in install.value


def test_apptainer_installs_as_the_dockerfile_does() -> None:
    definition = " ".join((DOCKER / "made.def").read_text(encoding="utf-8").replace("\\\n", " ").split())
    stages = dockerfile.read(FILE)
    assert f"From: {stages[0].parent} " in definition
    steps = [" ".join(s.value.split()) for stage in stages for s in stage.steps if "uv " in s.value]
    commands = [part for step in steps for part in step.split(" && ") if "/bin/uv " in part]
    assert len(commands) == 3
    for command in commands:
        assert command.replace("/opt/wheel/", "/wheel/") in definition
    assert f"UV={stages[1].steps[0].environment['UV']} " in definition


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["with-secrets", "make-secrets"])
def test_scripts_pass_shellcheck(name: str) -> None:
    done = subprocess.run(["shellcheck", DOCKER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_with_secrets_reads_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a b\n", encoding="utf-8")
    command = [str(DOCKER / "with-secrets"), "sh", "-c", 'printf "%s|%s" "$WORD" "${MADE_WORD:-unset}"']
    names = {"PATH": os.environ["PATH"], "WORD_FILE": str(secret), "MADE_WORD_FILE": str(secret)}
    done = subprocess.run(command, env=names, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "a b|unset")
    done = subprocess.run(command, env={**names, "WORD_FILE": "/absent"}, capture_output=True, text=True)
    assert done.returncode == 2 and "WORD_FILE is /absent" in done.stderr
