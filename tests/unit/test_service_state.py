"""The service's state: processes by identity, ports, the configuration's files and URLs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.service import control, ports, processes, state, view
from flows.service.processes import MARK, Identity
from flows.service.programs import Program, programs
from flows.service.state import Child, Config, Given, Phase, Ports, Processes
from made_core.errors import DatabaseError, UserError
from made_core.settings import settings

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("home")


def configuration(**given: str) -> Config:
    return Config(ports=Ports(postgres=1001, prefect=1002, front_door=1003), given=Given(**given))


def started(command: list[str], **variables: str) -> tuple[subprocess.Popen[str], Identity]:
    """A process that has started its work, and its identity."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables or None)
    assert child.stdout is not None and child.stdout.readline() == "\n"
    found = processes.identify(child.pid)
    assert found is not None
    return child, found


def test_up_counts_only_failures_since_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cause that was removed must not fail the next `made up`, whose supervisor has not looked yet."""
    here = processes.identify(os.getpid())
    assert here is not None
    door = Child(name="front-door", phase=Phase.WAITING, restarts=3, message="exited with code 2")
    failed = Processes(supervisor=here, children=[door])
    ready = Processes(supervisor=here, children=[door.model_copy(update={"phase": Phase.READY})])
    seen = iter([failed, failed, ready])
    monkeypatch.setattr(state, "processes", lambda: next(seen))
    said: list[str] = []
    control._wait(configuration(), None, said.append)
    assert said == ["front-door: ready"]
    again = Processes(supervisor=here, children=[door.model_copy(update={"restarts": 6})])
    seen = iter([failed, again])
    with pytest.raises(control.NotStarted, match="front-door exited with code 2, 3 times"):
        control._wait(configuration(), None, said.append)


def test_a_process_id_that_belongs_to_another_process_is_not_ours() -> None:
    child, found = started(SLEEP)
    with child:
        assert found.is_alive
        assert not found.model_copy(update={"started": found.started - 1}).is_alive
        assert not found.model_copy(update={"boot": "an earlier boot"}).is_alive
        found.model_copy(update={"boot": "an earlier boot"}).signal(signal.SIGKILL)
        assert child.poll() is None
        assert processes.end(found, 60)
    assert not found.is_alive


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    child, found = started(STUBBORN)
    with child:
        assert not processes.end(found, 0.2)
        assert not found.is_alive


def test_processes_are_found_by_their_mark() -> None:
    child, found = started(SLEEP, **{MARK: "one"})
    with child:
        assert [process for process, _ in processes.marked("one")] == [found]
        assert processes.runs("one") == {}
        assert list(processes.marked("two")) == []
        child.kill()


def test_ports_are_free_and_differ() -> None:
    found = ports.choose("127.0.0.1")
    numbers = {found.postgres, found.prefect, found.front_door}
    assert len(numbers) == 3 and all(ports.is_free("127.0.0.1", n) for n in numbers)
    with socket.socket() as other:
        other.bind(("127.0.0.1", found.prefect))
        assert not ports.is_free("127.0.0.1", found.prefect)
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is not an address of this machine .*--listen"):
        ports.choose("192.0.2.1")


def test_the_first_start_takes_the_usual_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = ports.choose("127.0.0.1")
    monkeypatch.setattr(ports, "PREFECT", free.prefect)
    monkeypatch.setattr(ports, "FRONT_DOOR", free.front_door)

    def first() -> tuple[int, int]:
        settings.cache_clear()
        found = control._configured(None, None, None, None, print).ports
        return found.prefect, found.front_door

    assert not {*first()} & {free.prefect, free.front_door}  # MADE_HOME is given: beside another service
    monkeypatch.delenv("MADE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert first() == (free.prefect, free.front_door)
    with socket.socket() as other:
        other.bind(("127.0.0.1", free.front_door))
        prefect, front_door = first()
        assert prefect == free.prefect and front_door != free.front_door


def test_files_with_secrets_are_for_this_user_only(home: Path) -> None:
    config = configuration()
    state.save_config(config)
    assert state.config() == config
    assert (home / "service/service.json").stat().st_mode & 0o777 == 0o600
    assert (home / "service").stat().st_mode & 0o777 == 0o700
    (home / "service/service.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        state.config()


def test_down_ends_a_service_whose_configuration_is_damaged(home: Path) -> None:
    """The message says `made down`: the supervisor has read the configuration, and ends the rest."""
    child, found = started(SLEEP)
    with child:
        state.save_processes(Processes(supervisor=found))
        (home / "service/service.json").write_text("{}")
        said: list[str] = []
        try:
            with pytest.raises(
                UserError, match=r"service\.json is damaged .*`made down`, remove it, then `made up`"
            ):
                control.down(said.append)
        finally:
            child.kill()
        assert said == [f"ended: supervisor, process {found.pid}"] and not found.is_alive


def test_other_options_of_a_service_that_is_up_are_refused_as_they_are_typed() -> None:
    known = configuration()
    with pytest.raises(UserError, match="is up with --worker: `made down`, then `made up --no-worker`"):
        control._refuse_changes(known, None, None, False)
    with pytest.raises(UserError, match="is up with --runs 1: `made down`, then `made up --runs 2`"):
        control._refuse_changes(known, None, 2, None)


def test_a_ledger_that_does_not_answer_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MADE_DATABASE_URL", "postgresql://me@127.0.0.1:1/made")
    monkeypatch.setattr(control, "_spawn", lambda: pytest.fail("the supervisor was started"))
    settings.cache_clear()
    with pytest.raises(DatabaseError, match=r"database made on 127\.0\.0\.1:1 cannot be reached"):
        control.up(None, None, None, print)
    assert state.config() is None


def test_the_front_door_listens_where_its_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`made trigger` on this machine, `made ps` and the look whether it works go to the same address."""
    monkeypatch.setenv("MADE_FRONT_DOOR_HOST", "127.0.0.2")
    settings.cache_clear()
    config = control._configured(None, None, None, None, print)
    assert config.front_door_url == f"http://127.0.0.2:{config.ports.front_door}"
    (door,) = [program for program in programs(config) if program.name == "front-door"]
    assert door.variables["MADE_FRONT_DOOR_HOST"] == "127.0.0.2"
    everywhere = config.model_copy(update={"front_door_host": "0.0.0.0"})
    assert everywhere.front_door_url == f"http://127.0.0.1:{config.ports.front_door}"


def test_given_servers_are_used_and_not_started() -> None:
    own = configuration()
    assert own.has_postgres and own.has_server
    assert [p.name for p in programs(own)][:2] == ["prefect", "register"]
    ledger = configuration(database_url="postgresql://u@h/made")
    assert ledger.has_postgres and ledger.database_url == "postgresql://u@h/made"
    both = configuration(database_url="postgresql://u@h/made", prefect_api_url="http://h:4200/api")
    assert not both.has_postgres and "prefect" not in [p.name for p in programs(both)]
    assert both.environment() == {
        "MADE_DATABASE_URL": "postgresql://u@h/made", "PREFECT_API_URL": "http://h:4200/api"
    }  # fmt: skip
    assert both.prefect_url == "http://h:4200"


def test_the_variables_of_made_env_are_not_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval "$(made env)"; made up` starts the service itself again."""
    known = configuration()
    for name, value in known.environment().items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    assert control._given(known) == Given()
    monkeypatch.setenv("PREFECT_API_URL", "http://h:4200/api")
    assert control._given(known) == Given(prefect_api_url="http://h:4200/api")


def test_a_listening_address_becomes_one_for_clients() -> None:
    config = configuration().model_copy(update={"listen": "0.0.0.0"})
    assert socket.gethostname() in config.prefect_api_url
    assert "[::1]:1001" in config.model_copy(update={"listen": "::1"}).database_url


def test_a_program_that_changed_is_another_program() -> None:
    one = Program("a", ("x",), {}, lambda _: True)
    assert one.digest == Program("a", ("x",), {}, lambda _: False).digest
    assert one.digest != Program("a", ("x",), {"B": "c"}, lambda _: True).digest


def test_after_a_reboot_nothing_is_up() -> None:
    """The ids in the record are of the earlier boot, and belong to other processes now."""
    me = processes.identify(1)
    assert me is not None
    old = me.model_copy(update={"boot": "an earlier boot"})
    child = Child(name="prefect", phase=Phase.READY, process=old)
    state.save_config(configuration())
    state.save_processes(Processes(supervisor=old, children=[child]))
    assert not state.is_up() and state.running() is None
    assert control._listed(configuration(), state.processes()) == []
    with pytest.raises(UserError, match="made up"):
        control.required()
    said: list[str] = []
    assert not control.down(said.append) and said == []


def test_ps_has_the_addresses_of_the_ui_and_of_the_front_door(capsys: pytest.CaptureFixture[str]) -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    state.save_config(configuration())
    for names, door in ((["prefect"], None), (["prefect", "front-door"], "http://127.0.0.1:1003")):
        children = [Child(name=name, phase=Phase.READY, process=me) for name in names]
        state.save_processes(Processes(supervisor=me, children=children, host=socket.gethostname()))
        assert view.show(as_json=True)
        shown = json.loads(capsys.readouterr().out)
        assert (shown["ui"], shown["front_door"]) == ("http://127.0.0.1:1002", door)
