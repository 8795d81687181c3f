"""Every page of the built site opens in Chromium without a complaint, and asks no other host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Browser, unavailable
from tests.docs.public import ROOT
from tests.docs.serving import served

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the site that ``make docs`` has made."""
    folder = ROOT / "build" / "site"
    if not folder.is_dir():
        unavailable("the site is not built: make docs")
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The address of the site on this machine."""
    with served(site) as url:
        yield url


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
