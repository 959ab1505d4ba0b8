"""The run form of `made/curate` in a browser, as a person fills it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support import browser
from tests.support.browser import Page

FIRST = (
    "Sources",
    "Output",
    "Store (Optional)",
    "Encoder (Optional)",
    "Dedup (Optional)",
    "Filters (Optional)",
)
LAST = "Work (Optional)"
WRONG = "Validation failed for field 'recipe.clusters.k'. Failure reason: 0 is less than the minimum of 1"


@contextmanager
def desk(variables: Mapping[str, str], folder: Path) -> Iterator[tuple[Page, httpx.Client, str]]:
    """A browser that has logged in to a service, a client of Prefect's API, and the UI's address.

    Args:
        variables: as `made env` prints them.
        folder: of the browser's profile.
    """
    api, login = variables["PREFECT_API_URL"], variables["PREFECT_API_AUTH_STRING"]
    user, _, word = login.partition(":")
    with (
        httpx.Client(base_url=api, auth=(user, word), timeout=60) as client,
        browser.page(folder / "profile", login) as page,
    ):
        yield page, client, api.removesuffix("/api")


def opened(page: Page, ui: str) -> None:
    """Goes from the list of deployments to the form, whose fields are in the order a person needs."""
    page.open(f"{ui}/deployments", "curate")
    page.click("curate")
    page.wait("Entrypoint")
    page.click("Run")
    page.click("Custom run")
    text = page.wait(FIRST[0], LAST)
    page.shot("form")
    lines = text.splitlines()
    places = [lines.index(name) for name in (*FIRST, LAST)]
    assert places == sorted(places), places
    assert "Allowed: at least 1e-09 and below 1." in text and "Allowed: 1 to 1,000,000 or auto." in text
    assert "is a const" not in text


def filled_in(page: Page, source: Path, output: Path) -> None:
    """Fills in what a run needs, and a number of clusters that is not allowed; its message says so."""
    page.click("Add item")
    page.fill("Sources", str(source))
    page.fill("Output", str(output))
    page.choose("K (Optional)", "int")
    page.fill("K (Optional)", "0")
    page.click("Submit")
    page.wait(WRONG)
    page.shot("form-wrong-value")
