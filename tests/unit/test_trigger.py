"""What `made trigger --wait` prints of a run."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from flows.service import trigger
from flows.service.records import StageProgress, TriggeredRun
from made_core.errors import UserError
from made_core.settings import settings


def test_progress_is_told_at_each_stage_and_twice_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stage's progress is one line for half a minute; a run that is publishing is not news."""
    monkeypatch.setattr(trigger, "POLL_SECONDS", 0.0)
    blank = TriggeredRun(
        id=uuid4(), name="curated", type="RUNNING", state="Running", message="run 1", output="/out", url="",
        created_at=None, started_at=None, ended_at=None,
    )  # fmt: skip

    def at(stage: str, done: int) -> TriggeredRun:
        progress = StageProgress(stage=stage, units=9, done=done, failed=0, rate=None, eta=None)
        return blank.model_copy(update={"stages": [progress]})

    end = blank.model_copy(update={"type": "COMPLETED", "state": "Completed", "message": "9 in, 9 kept"})
    answers = iter([blank, at("embed", 0), at("embed", 1), at("embed", 2), at("write", 0), blank, end])
    door = httpx.Client(
        base_url="http://door",
        transport=httpx.MockTransport(lambda _: httpx.Response(200, text=next(answers).model_dump_json())),
    )
    lines = [trigger.line(run) for run in trigger.follow(door, blank)]
    assert lines == [
        "Running: run 1", "Running: embed 0 of 9", "Running: write 0 of 9", "Completed: 9 in, 9 kept",
    ]  # fmt: skip
    assert next(answers, None) is None


def test_a_run_to_extend_by_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path becomes absolute, and the shards need no stats where that run's did not."""
    (tmp_path / "one").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "00000.tar").write_bytes(bytes(10240))
    monkeypatch.chdir(tmp_path)
    for name, sent in (("one", str(tmp_path / "one")), ("20261123-104006-bd89", "20261123-104006-bd89")):
        asked = trigger.wanted(None, {"sources": ["new"], "output": "two"}, [f"extends={name}"])
        assert asked == {
            "sources": [str(tmp_path / "new")], "output": str(tmp_path / "two"), "extends": sent,
        }  # fmt: skip


def test_an_address_of_a_front_door_that_is_not_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    monkeypatch.setenv("MADE_TRIGGER_TOKEN_FILE", str(token))
    monkeypatch.setenv("MADE_FRONT_DOOR", "http://door:port")
    settings.cache_clear()
    try:
        with (
            pytest.raises(UserError, match=r"MADE_FRONT_DOOR=http://door:port: .*expected a URL"),
            trigger.door(),
        ):
            pass
    finally:
        settings.cache_clear()
