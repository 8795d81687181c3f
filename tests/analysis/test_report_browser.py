"""The pages as a person opens them: headless Chromium, wide and narrow, light and dark."""

from __future__ import annotations

import pytest

from kat.analysis.reports.grids import write_ablation_report, write_comparison_report
from kat.analysis.reports.run import write_run_report
from tests.analysis import report_pages as pages
from tests.browser import Browser

pytestmark = pytest.mark.slow

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(21, 24, 28)"
SIZES = """
return [...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect().width)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of each kind, by its kind."""
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in ("run", "grid", "runs")}
    run = pages.findings(pages.small_kat())
    write_run_report(run, paths["run"])
    rows = pages.grid_rows()
    histories = {row["run"]: pages.history(row["top1"]) for row in rows}
    write_ablation_report({"models": rows}, {"models": histories}, paths["grid"])
    several = [row for row in rows if row["seed"] == 0]
    by_cell = {row["cell"]: pages.history(row["top1"]) for row in several}
    settings = {cell: {"model": {"name": cell}} for cell in by_cell}
    write_comparison_report(several, by_cell, settings, paths["runs"])
    return paths


@pytest.mark.parametrize("kind", ["run", "grid", "runs"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_pages_are_drawn_and_fit(browser, written, kind, width, dark):
    browser.open(written[kind], width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == []
    sizes = browser.run(SIZES)
    assert len(sizes) == written[kind].read_text().count("<svg") > 0
    assert all(size > 300 for size in sizes)
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        DARK if dark else LIGHT
    )
