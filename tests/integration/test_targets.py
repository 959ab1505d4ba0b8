"""Which run is meant where no Prefect server is known."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import targets
from made_core.errors import UserError
from made_core.ledger.ledger import Ledger
from tests.support.ledgers import begin


def test_a_flow_run_without_a_prefect_server(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at once: Prefect would start a server of its own, for half a minute, and find no run there."""
    monkeypatch.setattr("flows.flow_run.get_client", None)
    begin(ledger)
    flow_run = "11111111-2222-3333-4444-555555555555"
    for named in (flow_run, f"http://127.0.0.1:4200/runs/flow-run/{flow_run}"):
        with (
            temporary_settings(restore_defaults={PREFECT_API_URL}),
            pytest.raises(UserError, match=f"^flow run {flow_run}: no Prefect server is known here"),
        ):
            targets.find(ledger, named)
