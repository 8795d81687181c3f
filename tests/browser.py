"""Headless Chromium, driven through chromedriver's HTTP interface by the standard library alone."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
"""No sandbox: tests may run as root; no name is resolved: whatever a page asks for fails."""
_PATIENCE = 240
"""Seconds that an answer may take, on a machine that is busy."""


class Browser:
    """A browser with one window, to be closed at the end.

    Example:
        >>> browser = Browser()
        >>> browser.open(Path("page.html"), width=390, dark=True)
        >>> browser.run("return document.title")
        >>> browser.close()
    """

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory()
        self._driver = subprocess.Popen(
            [str(DRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._base = f"http://127.0.0.1:{self._port()}"
        options = {"binary": BROWSER, "args": [*_OPTIONS, f"--user-data-dir={self._profile.name}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._post("/session", capabilities={"alwaysMatch": wanted})["sessionId"]
        self._base += f"/session/{session}"

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return int(found[1])
        raise RuntimeError("chromedriver did not start")

    def _post(self, path: str, **content: Any) -> Any:
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, body, headers)
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return json.load(answer)["value"]

    def _command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's DevTools protocol."""
        return self._post("/goog/cdp/execute", cmd=name, params=parameters)

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Loads a file into a window of so many pixels, in light or dark mode."""
        self.prefer("dark" if dark else "light")
        self.resize(width, height)
        self._post("/url", url=page.resolve().as_uri())

    def resize(self, width: int, height: int = 900) -> None:
        """Makes the window so many pixels large."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Has the reader prefer ``"light"`` or ``"dark"``, from now on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", features=features)

    def run(self, script: str) -> Any:
        """What a script returns, in the page; a promise is waited for."""
        return self._post("/execute/sync", script=script, args=[])

    def click(self, selector: str) -> None:
        """Clicks into the middle of the first element of a CSS selector."""
        middle = (
            f"const element = document.querySelector('{selector}');"
            "element.scrollIntoView({block: 'center'});"
            "const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]"
        )
        x, y = self.run(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self._command(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def complaints(self) -> list[str]:
        """What the console has had since the last call."""
        return [entry["message"] for entry in self._post("/se/log", type="browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call, but those on this machine."""
        entries = self._post("/se/log", type="performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
        urls = [message["params"]["request"]["url"] for message in sent]
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:", "chrome:"))]

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        shot = self._command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Ends the browser."""
        request = urllib.request.Request(self._base, method="DELETE")
        try:
            urllib.request.urlopen(request, timeout=_PATIENCE).close()
        finally:
            self._driver.terminate()
            self._driver.wait()
            self._profile.cleanup()
