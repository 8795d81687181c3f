"""The pages as a person opens them: headless Chromium, wide and narrow, light and dark."""

from __future__ import annotations

import numpy as np
import pytest

from kat.analysis.reports.ablation import write_ablation_report
from kat.analysis.reports.comparison import write_comparison_report
from kat.analysis.reports.run import write_run_report
from tests.analysis import report_pages as pages
from tests.browser import Browser

pytestmark = pytest.mark.slow

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(21, 24, 28)"
DRAWN = """
return [...document.querySelectorAll(".chart")].map((chart) =>
  chart.querySelectorAll(".main-svg .trace path, .main-svg .hm image, .main-svg .bars path").length)
"""
TEXTS = """
const charts = [...document.querySelectorAll(".chart")];
const top = (element) => element.getBoundingClientRect().top;
const texts = (chart, what) => [...charts[chart].querySelectorAll(what)]
  .sort((a, b) => top(a) - top(b)).map((element) => element.textContent);
"""
COVERED = """
const boxes = (selector) => [...document.querySelectorAll(selector)]
  .map((element) => element.getBoundingClientRect()).filter((box) => box.width > 0);
return boxes(".legend .bg").filter((legend) => boxes(".nsewdrag").some((plot) =>
  legend.left < plot.right && plot.left < legend.right &&
  legend.top < plot.bottom - 1 && plot.top + 1 < legend.bottom)).length
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
    write_ablation_report(
        {"models": rows},
        {"models": {row["run"]: pages.history(row["top1"]) for row in rows}},
        paths["grid"],
    )
    several = [row for row in rows if row["seed"] == 0]
    write_comparison_report(
        several,
        {row["cell"]: pages.history(row["top1"]) for row in several},
        {row["cell"]: {"model": {"name": row["cell"]}} for row in several},
        paths["runs"],
    )
    return paths


@pytest.mark.parametrize("kind", ["run", "grid", "runs"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_pages_are_drawn_and_fit(browser, written, kind, width, dark):
    browser.open(written[kind], width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == []
    drawn = browser.run(DRAWN)
    assert len(drawn) == written[kind].read_text().count('class="chart"')
    assert all(marks > 0 for marks in drawn), drawn
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run(COVERED) == 0
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        DARK if dark else LIGHT
    )


def test_charts_follow_the_mode_while_the_page_is_open(browser, written):
    paper = "return document.querySelector('.main-svg').style.background"
    text = "return document.querySelector('.xtick text').style.fill"
    browser.open(written["grid"])
    light = browser.run(f"{paper}"), browser.run(text)
    assert light[0] == LIGHT
    browser.prefer("dark")
    browser.wait_for(f"{paper} == '{DARK}'")
    browser.wait_for(f"{text} != '{light[1]}'")
    assert browser.complaints() == []


def test_charts_follow_the_window(browser, written):
    browser.open(written["grid"], width=1280)
    charts = "[...document.querySelectorAll('.chart')].map((c) => [c.clientWidth, "
    charts += "c.querySelector('.main-svg').clientWidth])"
    wide = browser.run(f"return {charts}")
    browser.resize(width=500)
    browser.wait_for("return document.documentElement.scrollWidth == 500")
    browser.wait_for(f"return {charts}.every(([chart, svg]) => chart == svg && chart < 500)")
    assert all(chart == svg > 500 for chart, svg in wide), wide


def test_slider_and_menus_answer(browser, written):
    browser.open(written["run"])
    chart = "[...document.querySelectorAll('.chart')].find((c) => c.querySelector('.slider-group'))"
    browser.run(f"return Plotly.animate({chart}, ['0'], {{mode: 'immediate'}})")
    assert browser.run(f"return {chart}.data[0].y") == pytest.approx([0] * 101)
    browser.click(".slider-group .slider-rail-touch-rect")
    assert browser.run(f"return {chart}.layout.sliders[0].active") == 1
    x, y = (np.array(browser.run(f"return {chart}.data[3].{axis}")) for axis in "xy")
    layer = pages.small_kat().blocks[0].mlp.act1
    assert y == pytest.approx(pages.by_numpy(layer, x, 3, share=0.5), abs=1e-4)
    assert browser.complaints() == []


def test_names_are_shown_letter_by_letter_and_in_order(browser, tmp_path):
    names = ["8", "1", "<b>P</b> & %{x}", "one a channel"]
    made = [{**row, "seed": 0} for row in pages.grid_rows()[: len(names)]]
    rows = [{**row, "cell": name, "run": name} for row, name in zip(made, names, strict=True)]
    histories = {name: pages.history(80.0) for name in names}
    page = tmp_path / "grid.html"
    write_ablation_report({"odd": rows}, {"odd": histories}, page)
    browser.open(page)
    assert browser.run(f"{TEXTS} return texts(0, '.ytick text')") == names
    assert browser.run(f"{TEXTS} return texts(3, '.legendtext')") == names
    for chart, curve, point in ((0, 1, 2), (2, 2, 0), (3, 4, 0)):
        point = f"{{curveNumber: {curve}, pointNumber: {point}}}"
        hover = f"Plotly.Fx.hover(charts[{chart}], [{point}])"
        shown = browser.run(f"{TEXTS} {hover}; return texts({chart}, '.hovertext text')")
        assert names[2] in "".join(shown)
    assert browser.complaints() == []


def test_without_scripts_the_tables_are_there(written):
    page = written["run"].read_text()
    assert page.count("<noscript>") == 1
    assert pages.tables_of(written["run"])[0][1] == [
        "runs/small", "1", "2.0000", "1.5000", "74.2500", "90.0000"
    ]  # fmt: skip
