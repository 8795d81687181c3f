"""Every page of the built site opens in Chromium without a complaint, and asks no other host."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.browser import Browser, unavailable
from tests.docs.public import ROOT
from tests.docs.serving import served

pytestmark = pytest.mark.release

UNSET = """
return [...document.querySelectorAll('.arithmatex')]
  .filter((formula) => !formula.querySelector('.katex') || formula.querySelector('.katex-error'))
  .map((formula) => formula.textContent)
"""
"""The formulas of a page that KaTeX has not set."""


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


@pytest.mark.parametrize(("scheme", "palette"), [("light", "default"), ("dark", "slate")])
def test_pages_open_without_complaints_and_ask_no_other_host(
    site, address, tmp_path, scheme, palette
):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert {"index.html", "reference/nn/index.html", "tutorials/first-layer/index.html"} < {*pages}
    browser = Browser(tmp_path / "profile")  # the theme keeps the palette of the first visit
    browser.prefer(scheme)
    try:
        for page, width in itertools.product(pages, (1280, 390)):
            browser.resize(width)
            browser.visit(address + page)
            browser.wait_for("return document.readyState === 'complete'")
            browser.wait_for(f"return document.body.dataset.mdColorScheme === '{palette}'")
            assert browser.run("return document.body.scrollWidth <= window.innerWidth"), page
            assert browser.run(UNSET) == [], page
            assert browser.complaints() == [], page
            foreign = [url for url in browser.requests() if not url.startswith(address)]
            assert foreign == [], page
    finally:
        browser.close()


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("GroupRational", "reference/kat/"),
        ("kanify", "kanify/"),
        ("export", "deployment/"),
        ("resume", "training/"),
    ],
)
def test_the_search_finds_first_the_page_about_the_words(address, tmp_path, query, page):
    browser = Browser(tmp_path / "profile")
    try:
        browser.resize(1280)
        browser.visit(f"{address}?q={query}")
        browser.wait_for("return document.querySelector('.md-search-result__link')")
        found = browser.run("return document.querySelector('.md-search-result__link').href")
        assert found.partition("?")[0] == address + page
    finally:
        browser.close()


def test_names_of_torch_and_timm_and_the_playground_have_their_links(site):
    reference = (site / "reference" / "nn" / "index.html").read_text()
    assert 'href="https://docs.pytorch.org/docs/stable/tensors.html#torch.Tensor"' in reference
    assert re.search('href="#kat.nn.GroupRational"[^>]*><code>GroupRational</code>', reference)
    page = (site / "playground" / "function" / "index.html").read_text()
    assert re.search('property="og:image" content="[^"]*playground/card.png"', page)
    assert (site / "playground" / "card.png").is_file()


def test_the_license_of_katex_lies_beside_its_files(site):
    katex = site / "playground" / "katex"
    assert (katex / "katex.min.js").is_file()
    assert "Permission is hereby granted" in (katex / "LICENSE").read_text()
