"""The run form of `made/curate` in a browser. The long form, with a run, is tests/service/test_pages.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from tests.support import browser, form

pytestmark = [pytest.mark.service, pytest.mark.timeout(600), browser.needed]


def test_the_form_and_a_wrong_value(deployments: dict[str, str], tmp_path: Path) -> None:
    """Sources first; a wrong value gets its message, and starts nothing."""
    with get_client(sync_client=True) as client:
        wanted = client.read_deployment_by_name("made/curate").id
    with browser.page(tmp_path / "profile") as page:
        form.opened(page, deployments["PREFECT_API_URL"].removesuffix("/api"))
        form.filled_in(page, tmp_path / "shards", tmp_path / "out")
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    started = [run for run in runs if run.deployment_id == wanted]
    assert str(tmp_path) not in str([run.parameters for run in started])
