"""Headless Chromium on pages: Prefect's and those that made writes.

Needs Debian's chromium and chromium-driver (.ci/packages).
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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

# Elements with text of their own whose contrast with what is behind them is below 4.5, as (text, ratio).
FAINT = """
const light = (c) => {
  const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const parts = (c) => c.match(/[\\d.]+/g).map(Number);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
return [...document.body.querySelectorAll('*')].filter((e) => e.checkVisibility() && !e.disabled
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
  const style = getComputedStyle(e);
  const a = light(parts(e.closest('svg') && e.tagName === 'text' ? style.fill : style.color));
  const b = light(behind(e));
  return [e.textContent.trim().slice(0, 40), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
}).filter(([_, ratio]) => ratio < 4.5);
"""
# What is wider than the page: its elements that are not inside a box that scrolls.
WIDER = """
const width = document.documentElement.clientWidth;
return [...document.body.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > width + 1
    && !e.closest('.scroll')).map((e) => e.outerHTML.slice(0, 120));
"""

needed = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {' and '.join(PROGRAMS)}: see .ci/packages"
)


class Page:
    """A page: what it shows as text, and what a person does on it."""

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
        """Clicks the button, link or tab with this text, when it is there."""
        path = f"//*[self::button or self::a or @area-controls][normalize-space(.)={label!r}]"
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

    def look(self, width: int, dark: bool = False, height: int = 900) -> None:
        """Sets the size of the window, in CSS pixels, and the colours that its user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def faults(self) -> list[str]:
        """What cannot be read: faint text, elements beyond the page's width, images that do not load."""
        broken = "return [...document.images].filter((i) => i.src && i.complete && !i.naturalWidth).length"
        wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        found = [f"contrast {ratio:.2f}: {text}" for text, ratio in self.driver.execute_script(FAINT)]
        found += [f"too wide: {text}" for text in self.driver.execute_script(WIDER)]
        found += ["the page scrolls sideways"] if self.driver.execute_script(wide) else []
        if count := self.driver.execute_script(broken):
            found.append(f"{count} images do not load")
        return found

    def keys(self, keys: str) -> None:
        """Types on the page."""
        self.driver.find_element(By.TAG_NAME, "body").send_keys(keys)

    def downloads(self, folder: Path) -> None:
        """Puts what is downloaded from now on into a folder."""
        self._devtools("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    def whole(self, name: str, most: int = 3000) -> Path:
        """Keeps a picture of the whole page, at most `most` pixels high, in build/screenshots."""
        size = self._devtools("Page.getLayoutMetrics", {})["cssContentSize"]
        width = self.driver.execute_script("return window.innerWidth")  # with the bar for scrolling
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], most), "scale": 1}
        shown = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        path.write_bytes(base64.b64decode(shown["data"]))
        return path

    def _devtools(self, command: str, values: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self.driver.execute_cdp_cmd(command, values)
        return result

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
