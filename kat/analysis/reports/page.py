"""Reports as one self-contained HTML page: no other file, nothing from the network.

The page follows the reader's light or dark mode and the window's width. Only a page with charts
holds a script: plotly.js, once, and what draws them.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from kat.files import write_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_NUMBER = re.compile(r"[+-]?[\d.]|-?$|nan$|inf$")
"""How a cell starts that holds a number, or none."""
_BAD = ' class="bad"'


class Table(NamedTuple):
    """Columns and rows, as :meth:`Report.table` takes them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Chart(NamedTuple):
    """An interactive figure.

    Args:
        figure: of plotly's; its colours for text, axes and background are the page's.
        caption: below it, which is also its text for who cannot see it.
        numbers: what it shows, to be opened below it.
    """

    figure: PlotlyFigure
    caption: str
    numbers: Table | None = None


class Report:
    """A page that grows from top to bottom.

    Args:
        title: the page's title and first heading.

    Example:
        >>> report = Report("Verification")
        >>> report.text("4 of 4 checks passed.")
        >>> report.table(("backend", "error"), [("cpu", "1.2e-07")], bad=[False])
        >>> report.write(Path("verify.html"))
    """

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._parts: list[str] = []
        self._headings: list[str] = []
        self._figures = 0
        self._charts = 0

    def heading(self, text: str) -> None:
        """A section starts; the page's top links to it."""
        self._headings.append(html.escape(text))
        anchor = f"section{len(self._headings)}"
        self._parts.append(f'<h2 id="{anchor}">{self._headings[-1]}</h2>')

    def text(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """What is to be seen first: names with their values."""
        cells = [
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in facts
        ]
        self._parts.append(f"<dl>{''.join(cells)}</dl>")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        bad: Sequence[bool] | None = None,
    ) -> None:
        """A table; the rows marked ``bad`` are shaded, columns of numbers are set right."""
        self._parts.append(_table(columns, rows, bad))

    def figure(self, figure: Figure, caption: str) -> None:
        """A figure, drawn as SVG, with a caption, which is also its text for who cannot see it."""
        caption = html.escape(caption)
        svg = _svg(figure, f"figure{self._figures}").replace(
            "<svg ", f'<svg role="img" aria-label="{caption}" ', 1
        )
        self._figures += 1
        self._parts.append(
            f'<figure><div class="scroll">{svg}</div><figcaption>{caption}</figcaption></figure>'
        )

    def chart(self, figure: PlotlyFigure, caption: str, numbers: Table | None = None) -> None:
        """An interactive figure, as wide as the page; see :class:`Chart`."""
        self._parts.append(self._chart(Chart(figure, caption, numbers)))

    def charts(self, charts: Sequence[Chart], small: bool = False) -> None:
        """Interactive figures side by side, as many as the window has room for.

        Args:
            charts: the figures.
            small: whether they need little room each.
        """
        kind = "row small" if small else "row"
        self._parts.append(f'<div class="{kind}">{"".join(map(self._chart, charts))}</div>')

    def numbers(self, numbers: Table) -> None:
        """A table that is to be opened."""
        self._parts.append(_details(numbers))

    def _chart(self, chart: Chart) -> str:
        name, caption = f"chart{self._charts}", html.escape(chart.caption)
        self._charts += 1
        below = "" if chart.numbers is None else _details(chart.numbers)
        return (
            f'<figure><div class="chart" id="{name}" role="img" aria-label="{caption}"></div>'
            f'<script type="application/json">{_json(chart.figure)}</script>'
            f"<figcaption>{caption}</figcaption>{below}</figure>"
        )

    def html(self) -> str:
        """The page."""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self._title}</title><style>\n{_asset('page.css')}</style></head><body>\n"
            f"<h1>{self._title}</h1>\n{self._contents()}"
            + "\n".join(self._parts)
            + f"{self._scripts()}\n</body></html>\n"
        )

    def _contents(self) -> str:
        if len(self._headings) < 2:
            return ""
        links = [f'<a href="#section{n}">{text}</a>' for n, text in enumerate(self._headings, 1)]
        return f"<nav>{''.join(links)}</nav>\n"

    def _scripts(self) -> str:
        if not self._charts:
            return ""
        from plotly.offline import get_plotlyjs

        return (
            "\n<noscript><p>The charts need JavaScript; the tables do not.</p></noscript>"
            f"\n<script>{get_plotlyjs()}</script>\n<script>\n{_asset('charts.js')}</script>"
        )

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        write_text(path, self.html())


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], bad: Sequence[bool] | None = None
) -> str:
    """The table, in a box of its own that scrolls where the window is narrow."""
    texts = [[str(cell) for cell in row] for row in rows]
    kinds = [
        ' class="number"' if texts and all(_NUMBER.match(row[place]) for row in texts) else ""
        for place in range(len(columns))
    ]
    marks = bad if bad is not None else [False] * len(rows)
    head = _cells("th", columns, kinds)
    body = "\n".join(
        f"<tr{_BAD * mark}>{_cells('td', row, kinds)}</tr>"
        for row, mark in zip(texts, marks, strict=True)
    )
    return f'<div class="scroll" tabindex="0"><table><tr>{head}</tr>\n{body}</table></div>'


def _details(numbers: Table) -> str:
    return f"<details><summary>Numbers</summary>{_table(*numbers)}</details>"


def _cells(tag: str, texts: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(
        f"<{tag}{kind}>{html.escape(text)}</{tag}>" for text, kind in zip(texts, kinds, strict=True)
    )


def _json(figure: PlotlyFigure) -> str:
    """The figure as JSON that may stand in HTML, without plotly's own colours."""
    spec = json.loads(figure.to_json(engine="json"))
    spec["layout"].pop("template", None)
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files("kat.analysis.reports") / "html" / name).read_text(encoding="utf-8")


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element whose ids are its own on the page; the same bytes every time."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
