"""The run form of `made/curate` in a browser, and the page of a run whose request was wrong."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.test_service import Service, service
from tests.support import browser

__all__ = ["service"]  # the fixture: a service that is up
pytestmark = [pytest.mark.service, pytest.mark.timeout(1200), browser.needed]
FIRST = (
    "Sources",
    "Output",
    "Store (Optional)",
    "Encoder (Optional)",
    "Dedup (Optional)",
    "Filters (Optional)",
)
LAST = "Work (Optional)"
MISTAKE = "output: relative/out is a relative path, which a deployment's run has no folder for"


def in_order(text: str, *names: str) -> bool:
    lines = text.splitlines()
    places = [lines.index(name) for name in names]
    return places == sorted(places)


def test_the_form_and_a_mistake(service: Service, tmp_path: Path) -> None:
    """Fields in the order a person needs, bounds in the sentences; the run page has the whole sentence."""
    variables = service.variables()
    api, login = variables["PREFECT_API_URL"], variables["PREFECT_API_AUTH_STRING"]
    user, _, word = login.partition(":")
    with (
        httpx.Client(base_url=api, auth=(user, word), timeout=60) as client,
        browser.page(tmp_path, login) as page,
    ):
        deployment = client.get("/deployments/name/made/curate").json()["id"]
        url = api.removesuffix("/api")
        text = page.open(f"{url}/deployments/deployment/{deployment}/run", FIRST[0], LAST)
        page.shot("form")
        assert in_order(text, *FIRST, LAST)
        assert "Allowed: above 0 and below 1." in text and "Allowed: 1 to 1,000,000 or auto." in text

        recipe = {"sources": ["/in"], "output": "relative/out"}
        reply = client.post(
            f"/deployments/{deployment}/create_flow_run", json={"parameters": {"recipe": recipe}}
        )
        run = reply.json()["id"]
        page.open(f"{url}/runs/flow-run/{run}", "Failed", MISTAKE)
        page.shot("mistake")
