"""The service in a browser: a run is started in the form and watched until it ends; its pages; a mistake.

The pictures are in build/screenshots.
"""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from made_core.errors import StorageFailed
from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from tests.e2e.test_service import Service
from tests.support import browser, form
from tests.support.deployed import held_up, running, wait

pytestmark = [pytest.mark.service, pytest.mark.timeout(1200), browser.needed]
MISTAKE = "output: relative/out is a relative path, which a deployment's run has no folder for"


def artifact(client: httpx.Client, flow_run: str, kind: str) -> str | None:
    """The id of an artifact of a flow run; None: it has none of this kind yet."""
    body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
    found: list[dict[str, Any]] = client.post("/artifacts/filter", json=body).json()
    return next((a["id"] for a in found if str(a["key"]).startswith(f"made-{kind}-")), None)


def test_a_run_from_the_form_to_its_report(service: Service, tmp_path: Path) -> None:
    """A wrong value; the run; its progress moves; the list marks the failed shard."""
    write_sample(tmp_path, samples=160, shards=8, seed=6)
    source, output = tmp_path / "shards", tmp_path / "curated"
    (source / "00001.tar").write_bytes(b"no tar at all" * 1000)
    database = service.variables()["MADE_DATABASE_URL"]
    with (
        form.desk(service.variables(), tmp_path) as (page, client, ui),
        closing(Ledger.open(database)) as ledger,
    ):
        form.opened(page, ui)
        form.filled_in(page, source, output)
        page.fill("K (Optional)", "4")
        page.fill("Tasks In Flight (Optional)", "1")
        page.fill("Shards Per Task (Optional)", "1")
        page.click("Submit")
        page.wait("scheduled to start")
        unit = held_up(ledger, running(ledger, output))
        named = re.search(r"curated 20\S+ \S+", page.reload("curated 20"))
        assert named
        page.click(named.group())
        page.wait("Running", named.group(), "Artifacts")
        flow_run = page.driver.current_url.rpartition("/")[2].partition("?")[0]
        page.shot("run-running")

        progress = wait(lambda: artifact(client, flow_run, "progress"), "the progress")
        page.open(f"{ui}/artifacts/artifact/{progress}", "progress by stage")
        page.reload("7 of 8")
        page.shot("progress")
        ledger.units.fail(unit, StorageFailed("given back"), 0)
        page.reload("8 of 8", "write")
        page.shot("progress-later")

        page.open(f"{ui}/runs/flow-run/{flow_run}", "CompletedWithFailures", "Details")
        page.click("Details")
        page.wait("failed shards: 00001")
        page.shot("run")
        text = page.open(f"{ui}/runs", "curated 20", "CompletedWithFailures")
        assert "failed shards" not in text  # the name of the state is enough
        page.shot("runs")
        failed = artifact(client, flow_run, "failed")
        page.open(f"{ui}/artifacts/artifact/{failed}", "00001", "not a complete tar")
        page.shot("failed-shards")
        report = artifact(client, flow_run, "report")
        page.open(f"{ui}/artifacts/artifact/{report}", "samples kept", "Largest groups")
        page.shot("report")
        pictures = "[...document.querySelectorAll('img')].filter(i => i.src.startsWith('data:'))"
        widths = page.driver.execute_script(f"return {pictures}.map(i => i.naturalWidth)")
        assert len(widths) > 3 and all(width > 0 for width in widths)
    shutil.rmtree(output)


def test_a_mistake_on_the_page_of_its_run(service: Service, tmp_path: Path) -> None:
    """The whole sentence is readable."""
    with form.desk(service.variables(), tmp_path) as (page, client, ui):
        deployment = client.get("/deployments/name/made/curate").json()["id"]
        recipe = {"sources": ["/in"], "output": "relative/out"}
        reply = client.post(
            f"/deployments/{deployment}/create_flow_run", json={"parameters": {"recipe": recipe}}
        )
        page.open(f"{ui}/runs/flow-run/{reply.json()['id']}", "Failed", MISTAKE)
        page.shot("mistake")
