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

FAINT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function over(colors) {  // painted one over the other
  canvas.clearRect(0, 0, 1, 1);
  for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
function luminance(rgb) {
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.map((c) => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const kinds = 'a:not(.headerlink), button, code, p, li, td, label, span, text';
return [...document.querySelectorAll(`.md-content :is(${kinds})`)].filter((e) => {
  const style = getComputedStyle(e);
  const written = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!written || !e.getClientRects().length) return false;
  const behind = [];
  for (let at = e; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const paint = e.tagName === 'text' ? style.fill : style.color;
  const light = [over(behind), over([...behind, paint])].map(luminance).sort((a, b) => b - a);
  return (light[0] + 0.05) / (light[1] + 0.05) < 4.5;
}).map((e) => e.textContent.trim().slice(0, 40))
"""
"""The links, buttons and texts of a page whose contrast is below 4.5 to 1, as WCAG computes it."""
SMALL = """
return (async () => {
const figures = [...document.querySelectorAll('.md-content img[src$=".svg"]')];
const found = await Promise.all(figures.map(async (image) => {
  const text = await (await fetch(image.src)).text();
  const width = Number(text.match(/viewBox="0 0 ([0-9.]+)/)[1]);
  const sizes = [...text.matchAll(/font(?:-size)?: ?([0-9.]+)px/g)].map(([, size]) => size);
  return [image.src, Math.min(...sizes) * image.clientWidth / width];
}));
return found.filter(([, size]) => size < 11);
})()
"""
"""The figures whose smallest text is below 11 pixels, and its size."""


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
            assert browser.run(FAINT) == [], page
            assert browser.run(SMALL) == [], page
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
