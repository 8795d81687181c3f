"""Headless Chrome or Chromium through Selenium: what is installed, nothing fetched.

Tests skip where there is none, or fail if ``KAT_BROWSER_TESTS=required`` is set.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

NAMES = ("google-chrome", "chromium", "chromium-browser")
"""The last is on Ubuntu a stub of snap."""
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
"""No sandbox: tests may run as root; no name is resolved: a page gets nothing from other hosts."""
PATIENCE = 120
"""Seconds until a page that has not changed as expected fails, on a machine that is busy."""


def unavailable(reason: str) -> NoReturn:
    """Skips the test, or fails it where nothing may be missing."""
    required = os.environ.get("KAT_BROWSER_TESTS") == "required"
    (pytest.fail if required else pytest.skip)(reason)


class Browser:
    """A browser with one window, to be closed at the end; its profile is kept in ``profile``."""

    def __init__(self, profile: Path) -> None:
        browser, driver = (
            next(filter(None, map(shutil.which, NAMES)), None),
            shutil.which("chromedriver"),
        )
        if browser is None or driver is None:
            unavailable("no browser and its driver: apt install chromium chromium-driver")
        options = ChromeOptions()
        options.binary_location = browser
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options, Service(driver))

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Loads a file into a window of so many pixels, in light or dark mode."""
        self.prefer("dark" if dark else "light")
        self.resize(width, height)
        self.visit(page.resolve().as_uri())

    def visit(self, url: str) -> None:
        """Loads an address into the window as it is."""
        self.driver.get(url)

    def resize(self, width: int, height: int = 900) -> None:
        """Makes the window so many pixels large."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Has the reader prefer ``"light"`` or ``"dark"``, from now on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str) -> Any:
        """Run a script in the page and return its value; a promise is awaited."""
        return self.driver.execute_script(script)

    def wait_for(self, script: str) -> None:
        """Until a script returns something true."""
        WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(
            lambda driver: driver.execute_script(script), f"never true: {script}"
        )

    def click(self, selector: str) -> None:
        """Clicks into the middle of the first element of a CSS selector."""
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).click(element).perform()

    def complaints(self) -> list[str]:
        """Return the messages on the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call, but those on this machine."""
        entries = self.driver.get_log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
        urls = [message["params"]["request"]["url"] for message in sent]
        own = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:")  # of the first empty tab
        return [url for url in urls if not url.startswith(own)]

    def close(self) -> None:
        """Ends the browser and its driver."""
        self.driver.quit()
