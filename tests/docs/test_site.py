"""Every page of the built site opens in Chromium without a complaint, and asks no other host."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.browser import MISSING, Browser
from tests.docs.public import ROOT

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(bool(MISSING), reason=f"no browser: {', '.join(MISSING)}"),
]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site, as ``mkdocs build`` makes it, its tutorials run."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The address of the site on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_pages_open_without_complaints_and_ask_no_other_host(site, address, tmp_path):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert {"index.html", "reference/nn/index.html", "tutorials/first-layer/index.html"} < {*pages}
    browser = Browser(tmp_path / "profile")
    try:
        for page in pages:
            for width, dark in ((1400, False), (400, True)):
                browser.prefer("dark" if dark else "light")
                browser.resize(width)
                browser.visit(address + page)
                browser.wait_for("return document.readyState === 'complete'")
                assert browser.run("return document.body.scrollWidth <= window.innerWidth"), page
                assert browser.complaints() == [], page
                foreign = [url for url in browser.requests() if not url.startswith(address)]
                assert foreign == [], page
    finally:
        browser.close()


def test_the_search_finds_a_public_name(address, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.resize(1400)
        browser.visit(address + "?q=GRKANMlp")
        browser.wait_for("return document.querySelector('.md-search-result__link')")
        links = "[...document.querySelectorAll('.md-search-result__link')]"
        assert browser.run(f"return {links}.some(a => a.href.includes('/reference/'))")
    finally:
        browser.close()
