"""Headless Chromium on Prefect's pages. Needs Debian's chromium and chromium-driver (.ci/packages)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.checks import ROOT

PROGRAMS = ("chromium", "chromedriver")
PATIENCE = 240.0  # seconds to wait for what a page shows, on a busy machine
LOADED = 10.0  # seconds until a page that was reloaded shows what it has
SCREENSHOTS = ROOT / "build" / "screenshots"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1400,1800",
)  # fmt: skip

needed = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {' and '.join(PROGRAMS)}: see .ci/packages"
)


class Page:
    """A page of Prefect's server: what it shows as text, and what a person does on it."""

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def open(self, url: str, *expected: str) -> str:
        """Opens a page; returns its text when it shows all of `expected`."""
        self.driver.get(url)
        return self.wait(*expected)

    @property
    def text(self) -> str:
        """What the page shows, values of fields excluded."""
        return str(self.driver.execute_script("return document.body ? document.body.innerText : ''"))

    def wait(self, *expected: str) -> str:
        """Waits until the page shows all of `expected`; returns its text."""
        try:
            WebDriverWait(self.driver, PATIENCE).until(lambda _: all(part in self.text for part in expected))
        except Exception:
            self.shot("failed")
            raise AssertionError(f"the page does not show {expected}, but:\n{self.text}") from None
        return self.text

    def reload(self, *expected: str) -> str:
        """Reloads the page until it shows all of `expected`; returns its text."""

        def shows(_: WebDriver) -> bool:
            self.driver.refresh()
            with suppress(TimeoutException):
                WebDriverWait(self.driver, LOADED).until(
                    lambda _: all(part in self.text for part in expected)
                )
                return True
            return False

        WebDriverWait(self.driver, PATIENCE).until(shows)
        return self.text

    def click(self, label: str) -> None:
        """Clicks the button or link with this text, when it is there."""
        path = f"//*[self::button or self::a][normalize-space(.)={label!r}]"
        found = WebDriverWait(self.driver, PATIENCE).until(lambda d: d.find_elements(By.XPATH, path))
        self.driver.execute_script("arguments[0].click()", found[-1])

    def field(self, label: str) -> WebElement:
        """The field of a form with this label."""
        named = f".//span[contains(@class, 'schema-form-property__label') and normalize-space(.)={label!r}]"
        path = f"//div[contains(concat(' ', @class, ' '), ' schema-form-property ')][./div[1]{named[1:]}]"
        return WebDriverWait(self.driver, PATIENCE).until(lambda d: d.find_element(By.XPATH, path))

    def choose(self, label: str, kind: str) -> None:
        """Chooses the type of a field that has several."""
        path = f".//button[normalize-space(.)={kind!r}]"
        self.driver.execute_script("arguments[0].click()", self.field(label).find_element(By.XPATH, path))

    def fill(self, label: str, value: str) -> None:
        """Types a value into a field, in place of the one that it has."""
        box = WebDriverWait(self.driver, PATIENCE).until(
            lambda _: self.field(label).find_elements(By.CSS_SELECTOR, "textarea, input")
        )[-1]
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(value)

    def labels(self, css: str) -> list[str]:
        """The texts of the elements that a selector matches, in the order of the page."""
        return [str(e.text).strip() for e in self.driver.find_elements(By.CSS_SELECTOR, css)]

    def shot(self, name: str) -> Path:
        """Keeps a picture of the page in build/screenshots."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path


@contextmanager
def page(profile: Path, auth: str | None = None) -> Iterator[Page]:
    """A browser with an empty profile in `profile`.

    Args:
        auth: `user:password` of Prefect's server, as PREFECT_API_AUTH_STRING; its pages read it from the
            browser's storage.
    """
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = shutil.which(PROGRAMS[0]) or ""
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which(PROGRAMS[1])))
    if auth:
        script = f"localStorage.setItem('prefect-password', btoa({json.dumps(auth)}))"
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        yield Page(driver)
    finally:
        driver.quit()
