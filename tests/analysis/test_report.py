"""The HTML report: one file that stands alone, with all text escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from kat.analysis.report import Report


def _figure() -> Figure:
    figure = Figure()
    figure.subplots().plot([0, 1], [1, 0])
    return figure


@pytest.fixture
def page() -> str:
    report = Report("a < b")
    report.heading("Section & more")
    report.text("x > 1")
    report.table(("name", "value"), [("<script>", 1.5), ("ok", 2)], bad=[True, False])
    report.figure(_figure(), 'falling "line"')
    report.figure(_figure(), "again")
    return report.html()


def test_text_is_escaped_and_bad_rows_are_marked(page):
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<h1>a &lt; b</h1>" in page
    assert page.count('<tr class="bad">') == 1


def test_figures_are_inline_valid_and_have_ids_of_their_own(page):
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 2
    ids = [set(re.findall(r'id="([^"]+)"', figure)) for figure in figures]
    assert not ids[0] & ids[1]
    for figure, own in zip(figures, ids, strict=True):
        ElementTree.fromstring(figure)
        assert set(re.findall(r'href="#([^"]+)"', figure)) <= own
        assert set(re.findall(r"url\(#([^)]+)\)", figure)) <= own


def test_nothing_is_fetched_from_elsewhere(page):
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', 'href="#'))


def test_the_same_report_is_the_same_bytes():
    pages = []
    for _ in range(2):
        report = Report("t")
        report.figure(_figure(), "c")
        pages.append(report.html())
    assert pages[0] == pages[1]


def test_the_file_is_written_whole(tmp_path, page):
    report = Report("t")
    report.write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == report.html()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
