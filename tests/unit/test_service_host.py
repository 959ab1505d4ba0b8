"""A home that several hosts share: the service's record says on which of them it runs."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from flows.service import control, processes, state, supervisor, view
from flows.service.state import Child, Config, Given, Phase, Ports, Processes
from made_core.errors import UserError

pytestmark = pytest.mark.usefixtures("home")


GIVEN = Given(database_url="postgresql://u@h/made", prefect_api_url="http://h/api")
CONFIG = Config(ports=Ports(postgres=1001, prefect=1002, front_door=1003), given=GIVEN)


def recorded_on(host: str, boot: str) -> Path:
    """The record of a service of this home that was started on a host. Returns its file."""
    me = processes.identify(os.getpid())
    assert me is not None
    there = me.model_copy(update={"boot": boot})
    child = Child(name="prefect", phase=Phase.READY, process=there)
    state.save_config(CONFIG)
    state.save_processes(Processes(supervisor=there, children=[child], host=host))
    return state.folder() / "processes.json"


def test_the_supervisor_records_its_host() -> None:
    supervisor.Supervisor(CONFIG, None)
    found = state.processes()
    assert found is not None and found.host == socket.gethostname()


def test_a_service_on_another_host_is_not_forgotten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Login nodes share a home: what is alive on one of them is unknown on the others."""
    monkeypatch.setattr(control, "_spawn", lambda: pytest.fail("starts a supervisor"))
    monkeypatch.setattr(supervisor, "Supervisor", lambda *_: pytest.fail("supervises"))
    record = recorded_on("login1", "the boot of login1")
    before = record.read_bytes()
    told = rf"runs on login1, .*: run this there; if login1 is gone for good, remove {record}"
    up, down = partial(control.up, None, None, None, print), partial(control.down, print)
    for command in (up, down, control.required):
        with pytest.raises(UserError, match=told):
            command()
    with pytest.raises(SystemExit, match=told):
        supervisor.main()
    assert not view.show(as_json=False)
    assert "runs on login1" in capsys.readouterr().out
    assert not view.show(as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["up"], shown["host"], shown["processes"]) == (False, "login1", [])
    assert state.running() is None  # `made curate` here may use the servers that its environment names
    assert record.read_bytes() == before


@pytest.mark.parametrize("host", [socket.gethostname(), ""], ids=["this host", "an earlier version"])
def test_the_record_of_an_earlier_boot_of_this_host_is_forgotten(host: str) -> None:
    record = recorded_on(host, "an earlier boot")
    if not host:
        fields = json.loads(record.read_text())
        del fields["host"]
        record.write_text(json.dumps(fields))
    assert not control.down(print)
    assert not record.exists()


def test_a_host_that_was_renamed_is_still_this_one() -> None:
    recorded_on("its name before", processes.boot())
    assert state.is_up() and control.required()
