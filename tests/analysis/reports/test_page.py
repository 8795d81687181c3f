"""The HTML report: one file that stands alone, with all text escaped."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from kat.analysis.figures.base import hover
from kat.analysis.reports.page import Report


def _figure() -> Figure:
    figure = Figure()
    (line,) = figure.subplots().plot([0, 1], [1, 0])
    hover(line, 'a "line" & <b>')
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
        assert set(re.findall(r'href="#([^"]+)"', figure)) <= own
        assert set(re.findall(r"url\(#([^)]+)\)", figure)) <= own
    # nothing is fetched from elsewhere
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', 'href="#'))


def test_a_page_that_cannot_be_rendered_leaves_the_old_one(tmp_path):
    class Broken(str):
        def __html__(self):
            raise ZeroDivisionError

    path = tmp_path / "report.html"
    Report("old").write(path)
    report = Report("new")
    report.text("begins well")
    report.text(Broken("ends badly"))
    with pytest.raises(ZeroDivisionError):
        report.write(path)
    assert "<h1>old</h1>" in path.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_sections_have_places_to_link_to_and_facts_are_escaped():
    report = Report("t")
    report.heading("One & all")
    report.heading("Two")
    report.facts([("top-1", "87.00 %"), ("<model>", "kat")])
    text = report.html()
    assert '<h2 id="section2">Two</h2>' in text
    assert "<dt>&lt;model&gt;</dt><dd>kat</dd>" in text


def test_names_on_a_page_are_printable():
    name = "a\x1b[31m\n"
    report = Report(name)
    report.facts([(name, name)])
    report.table((name,), [(name,)])
    report.text(name)
    assert "\x1b" not in report.html()
    assert r"<p>a\x1b[31m\n</p>" in report.html()
