"""The janitor, the line between agents, and the cluster's folder."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.pbs import control, waiting
from flows.pbs.cluster import Head, prepare
from flows.pbs.control import Desk, Line
from flows.pbs.janitor import marked
from flows.pbs.resources import Share
from flows.pbs.stops import Stops
from made_core.errors import MadeError, UserError
from tests.chaos.cluster import free_port
from tests.support.checks import ROOT

AGENT = """
import os, subprocess, sys, time
from pathlib import Path
from flows.pbs.janitor import MARK, Janitor
folder = Path(sys.argv[1])
janitor = Janitor(str(folder), folder, lambda: Path(sys.argv[2]).touch())
child = "import time; print('up', flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], env={**os.environ, MARK: str(folder)},
                           start_new_session=True, stdout=subprocess.PIPE)
process.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
janitor.finish()
"""


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("killed", [False, True])
def test_the_janitor_leaves_nothing(tmp_path: Path, killed: bool) -> None:
    """Whether the agent ends in order or is killed; also processes in sessions of their own."""
    folder, last = tmp_path / "session", tmp_path / "last"
    folder.mkdir()
    (folder / "file").touch()
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(folder), str(last)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as agent:
        assert agent.stdout is not None and agent.stdin is not None
        assert agent.stdout.readline() == b"ready\n"
        assert len(marked(str(folder))) == 1
        if killed:
            agent.send_signal(signal.SIGKILL)
        agent.stdin.close()
    until(last.exists)
    assert not marked(str(folder)) and not folder.exists()


def test_a_process_stops_with_its_owner() -> None:
    with subprocess.Popen(["sleep", "600"]) as owner, Stops(owner.pid) as stops:
        assert not stops.due()
        owner.kill()
        until(stops.due)


@pytest.mark.integration
def test_agents_and_head_see_each_other_end() -> None:
    at = ("127.0.0.1", free_port())
    desk = Desk(*at, "secret")
    one, two = Line(at, "secret", "n1"), Line(at, "secret", "n2")
    until(lambda: control.status(at, "secret") == ["n1", "n2"])
    two.close()
    until(lambda: desk.nodes() == ["n1"])
    assert desk.stop(0.1) == ["n1"]  # it has not reported back
    assert one.ended.wait(30)
    one.close()
    until(lambda: not desk.nodes())
    with pytest.raises(MadeError, match="does not answer"):
        control.status(at, "wrong")


def test_the_folder_is_private_and_node_sh_carries_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "cluster"
    path.mkdir()
    environment = {
        "AWS_SECRET_ACCESS_KEY": "it's; $HOME",
        "PBS_JOBID": "1",
        "TMPDIR": "/x",
        "BASH_FUNC_a%%": "() {",
    }
    folder = prepare(path, {"n1": Share(4, 1)}, environment)
    for private in (path, folder.token_path, folder.node_script):
        assert not stat.S_IMODE(private.stat().st_mode) & 0o077, private
    text = folder.node_script.read_text()
    assert "PBS_JOBID" not in text and "TMPDIR" not in text and "BASH_FUNC" not in text
    exports = "".join(line + "\n" for line in text.splitlines() if line.startswith("export"))
    shown = subprocess.run(
        ["bash", "-c", exports + 'echo "$AWS_SECRET_ACCESS_KEY"'], capture_output=True, text=True, env={}
    )
    assert shown.stdout == "it's; $HOME\n"
    assert folder.shares() == {"n1": Share(4, 1)} and len(folder.token) == 64
    folder.write_head(Head("n1", "10.0.0.1", 1, 2, None, os.getpid()))
    folder.remove_if_headed_by("n2")
    assert folder.head().ray_address == "10.0.0.1:2"
    folder.remove_if_headed_by("n1")
    assert not path.exists()


def test_the_exports_of_a_cluster_are_for_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "it's-$HOME"
    path.mkdir()
    prepare(path, {}).write_head(Head("n1", "10.0.0.1", 1, 2, None, os.getpid()))
    shown = subprocess.run(
        ["bash", "-c", 'eval "$("$@")"; echo "$MADE_CLUSTER $RAY_AUTH_TOKEN_PATH $MADE_RAY_ADDRESS"', "bash",
         sys.executable, "-m", "flows.pbs", "environment", str(path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (shown.stdout, shown.stderr) == (f"{path} {path}/token 10.0.0.1:2\n", "")


def test_a_path_with_a_blank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my clusters"
    path.mkdir()
    with pytest.raises(UserError, match="contains a blank"):
        prepare(path, {}, {})


def test_the_log_of_a_node_that_failed_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster"
    path.mkdir()
    folder = prepare(path, {}, {})
    assert not waiting.has_failed(folder, "n2", set())
    folder.log("n2").write_text("".join(f"line {n}\n" for n in range(100)) + "no such network interface\n")
    folder.log("n2").with_suffix(".ended").touch()
    assert waiting.has_failed(folder, "n2", {"n1"}) and not waiting.has_failed(folder, "n2", {"n2"})
    waiting.print_logs(folder, ["n2", "n3"])
    printed = capsys.readouterr().err
    assert "---- n2: " in printed and "no such network interface" in printed and "line 3\n" not in printed
    assert "---- n3: " in printed and "was the node reached?" in printed
