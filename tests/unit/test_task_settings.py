"""Tasks get the settings of their flow, made once."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from prefect.context import SettingsContext, hydrated_context, serialize_context
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.settings.models.root import Settings

from flows.task_settings import task_settings

URL = "http://127.0.0.1:1/api"


@pytest.mark.parametrize("same_host", [True, False])
def test_a_task_has_the_settings_of_its_flow(same_host: bool) -> None:
    """Secrets too; after the flow they are Prefect's again."""
    with temporary_settings({PREFECT_API_URL: URL, PREFECT_API_KEY: "secret"}):
        with task_settings(same_host):
            sent = pickle.dumps(serialize_context())
        assert type(SettingsContext.get()) is SettingsContext
        expected = get_current_settings()
    assert PREFECT_API_URL.value() != URL
    with hydrated_context(pickle.loads(sent)):
        assert get_current_settings() == expected
        key = get_current_settings().api.key
        assert (PREFECT_API_URL.value(), key and key.get_secret_value()) == (URL, "secret")


@pytest.mark.parametrize("same_host", [True, False])
def test_they_are_made_once(monkeypatch: pytest.MonkeyPatch, same_host: bool) -> None:
    """Prefect would dump them for each task; a worker on this host builds none of them again."""
    dumped: list[Any] = []
    dump = SettingsContext.model_dump

    def counted(self: SettingsContext, **options: Any) -> dict[str, Any]:
        dumped.append(self)
        return dump(self, **options)

    monkeypatch.setattr(SettingsContext, "model_dump", counted)
    with temporary_settings({PREFECT_API_URL: URL}), task_settings(same_host):
        sent = [serialize_context() for _ in range(3)]
    assert len(dumped) == (0 if same_host else 1)
    if same_host:
        monkeypatch.setattr(Settings, "__init__", lambda self, **values: pytest.fail("settings were built"))
        with hydrated_context(sent[0]):
            assert PREFECT_API_URL.value() == URL
