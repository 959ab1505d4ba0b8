"""The container files: lint, the compose specification, and each variable, image and port said once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.service import commands as service_commands
from tests.support.checks import ROOT
from tests.support.containers import compose, definition, dockerfile

DOCKER = ROOT / "docker"
FILE, COMPOSE = DOCKER / "Dockerfile", DOCKER / "compose.yaml"
SERVICES = compose.load(COMPOSE, {})[1]["services"]


def test_hadolint_is_clean() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([lint, "--config", ROOT / ".hadolint.yaml", FILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_follows_the_specification() -> None:
    checked, values = compose.load(COMPOSE, {})
    assert checked.services is not None and set(checked.services) == set(values["services"])
    values["services"]["prefect"]["prots"] = []
    with pytest.raises(ValueError, match=r"not in the specification of Compose: services\.prefect\.prots"):
        compose.check(values)


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_checks_limits_and_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert "healthcheck" in service or service["restart"] == "on-failure"
    assert service["mem_limit"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"] and "user" not in service
    assert service.get("read_only") or "RAY_AUTH_MODE" in service["environment"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_the_secrets_that_they_use_and_these_as_files(name: str) -> None:
    environment = SERVICES[name]["environment"]
    used = {Path(str(value)).name for value in environment.values() if str(value).startswith("/run/secrets/")}
    assert used == set(SERVICES[name]["secrets"])
    words = re.compile("PASSWORD|TOKEN|AUTH_STRING|SECRET")
    assert not [n for n in environment if words.search(n) and not n.endswith(("_FILE", "_PATH"))]


def test_every_variable_has_a_default_and_can_be_set(tmp_path: Path) -> None:
    names = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    _, default = compose.load(COMPOSE, {})
    for name in names:
        _, changed = compose.load(COMPOSE, {name: "1234"})
        assert default != changed, name
    path = tmp_path / "compose.yaml"
    path.write_text("name: ${MADE_X}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="MADE_X: no value and no default"):
        compose.load(path, {})


def test_the_document_lists_every_variable_service_and_port() -> None:
    text = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    assert listed == variables | set(SERVICES)
    assert service_commands() and {name for name, _ in service_commands()} <= set(SERVICES)


def test_every_ray_node_has_an_object_store_of_the_same_size() -> None:
    _, values = compose.load(COMPOSE, {"MADE_OBJECT_STORE_BYTES": "123"})
    nodes = [values["services"][name] for name in ("ray-head", "ray-worker", "ray-gpu-worker")]
    assert all("--object-store-memory=123" in node["command"] for node in nodes)
    worker = values["services"]["worker"]["environment"]  # flows/service/ray_worker.py starts its node
    assert str(worker["MADE_OBJECT_STORE_BYTES"]) == "123"


def test_images_and_ports_are_named_once() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    assert re.findall(r"^ *image: .*$", text, re.MULTILINE) == ["  image: ${MADE_IMAGE:-made:local}"]
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


def test_the_build_context_has_what_the_steps_copy() -> None:
    excluded, *let_through = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith(("#", "**"))
    ]
    assert excluded == "*"
    copies = [
        s for stage in dockerfile.read(FILE) for s in stage.steps if s.kind == "COPY" and not s.source_stage
    ]
    sources = {source for step in copies for source in step.value.split()[:-1]}
    assert sources == {line.removeprefix("!") for line in let_through}
    assert all((ROOT / source).exists() for source in sources)


def test_apptainer_installs_as_the_dockerfile_does() -> None:
    wanted, stages = definition.read(DOCKER / "made.def"), dockerfile.read(FILE)
    post = " ".join(wanted.sections["post"].replace("\\\n", " ").split())
    assert wanted.header == {"Bootstrap": "docker", "From": stages[0].parent}
    steps = [" ".join(s.value.split()) for stage in stages for s in stage.steps if "uv " in s.value]
    commands = [part for step in steps for part in step.split(" && ") if "/bin/uv " in part]
    assert len(commands) == 3
    for command in commands:
        assert command in post
    assert f"UV={stages[1].steps[0].environment['UV']} " in post
    copied = {s for stage in stages for step in stage.steps if step.kind == "COPY" and not step.source_stage
              for s in step.value.split()[:-1]}  # fmt: skip
    needless = {"docker/answers", "docker/with-secrets"}  # of the composed service
    assert {source for source, _ in wanted.files} == copied - needless


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
