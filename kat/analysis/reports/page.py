"""A report as one HTML page that stands alone: no other file, nothing from the network.

The page follows the reader's light or dark mode and the width of the window. It holds a script only
if it has charts: plotly.js and the few lines that draw them.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from kat.files import write_text
from kat.tables import number_columns
from kat.text import printable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_PACKAGE, _FOLDER = "kat.analysis.reports", "html"


class Table(NamedTuple):
    """Columns and rows, as :meth:`Report.table` takes them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Chart(NamedTuple):
    """An interactive figure.

    Args:
        figure: a plotly figure; the page sets the colors of text, axes and background.
        caption: below the figure, and its text for screen readers.
        numbers: what the figure shows, as a table that opens below it.
    """

    figure: PlotlyFigure
    caption: str
    numbers: Table | None = None


class Report:
    """A page that grows from top to bottom. All text is escaped.

    Args:
        title: the title of the page, also its first heading.

    Example:
        >>> report = Report("Verification")
        >>> report.text("4 of 4 checks passed.")
        >>> report.table(("backend", "error"), [("cpu", "1.2e-07")], bad=[False])
        >>> report.write(Path("verify.html"))
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._body: list[tuple[str, dict[str, Any]]] = []
        self._headings: list[dict[str, str]] = []
        self._figures = 0
        self._charts = 0

    def heading(self, text: str) -> None:
        """Starts a section; the top of the page links to it."""
        heading = {"text": text, "anchor": f"section{len(self._headings) + 1}"}
        self._headings.append(heading)
        self._add("heading", **heading)

    def text(self, text: str) -> None:
        """Adds a paragraph of plain text."""
        self._add("text", text=text)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Adds names with their values in large type, to be read first."""
        self._add("facts", facts=facts)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        bad: Sequence[bool] | None = None,
    ) -> None:
        """Adds a table. Rows marked ``bad`` are shaded; columns of numbers are aligned right."""
        self._add("table", **_table_values(Table(columns, rows), bad))

    def numbers(self, table: Table) -> None:
        """Adds a table that is closed until the reader opens it."""
        self._add("numbers", table_values=_table_values(table))

    def figure(self, figure: Figure, caption: str) -> None:
        """Adds a figure as SVG, with a caption, which is also its text for screen readers."""
        svg = _svg_without_start(figure, f"figure{self._figures}")
        self._figures += 1
        self._add("figure", svg=svg, caption=caption)

    def chart(self, figure: PlotlyFigure, caption: str, numbers: Table | None = None) -> None:
        """Adds an interactive figure as wide as the page; see :class:`Chart`."""
        self._add("chart", **self._chart_values(Chart(figure, caption, numbers)))

    def charts(self, charts: Sequence[Chart], small: bool = False) -> None:
        """Adds interactive figures side by side, as many as the window has room for.

        Args:
            charts: the figures.
            small: whether each needs little room.
        """
        self._add("charts", charts=list(map(self._chart_values, charts)), small=small)

    def html(self) -> str:
        """Renders the page."""
        return (
            _environment()
            .get_template("page.html.jinja")
            .render(
                title=self._title,
                style=_asset("page.css"),
                headings=self._headings,
                body=self._body,
                scripts=_scripts() if self._charts else (),
            )
        )

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        write_text(path, self.html())

    def _add(self, macro: str, **values: Any) -> None:
        """Adds a part: a macro of parts.html.jinja and its arguments."""
        self._body.append((macro, values))

    def _chart_values(self, chart: Chart) -> dict[str, Any]:
        name = f"chart{self._charts}"
        self._charts += 1
        return {
            "name": name,
            "spec": _spec(chart.figure),
            "caption": chart.caption,
            "table_values": chart.numbers and _table_values(chart.numbers),
        }


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(_PACKAGE, _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not Markup
    )


def _table_values(table: Table, bad: Sequence[bool] | None = None) -> dict[str, Any]:
    rows = [[str(cell) for cell in row] for row in table.rows]
    return {
        "columns": table.columns,
        "rows": rows,
        "are_numbers": number_columns(rows, len(table.columns)),
        "are_bad": bad or [False] * len(rows),
    }


def _spec(figure: PlotlyFigure) -> Markup:
    """The figure as JSON without characters that mean something in HTML, or plotly's own colors."""
    spec = json.loads(figure.to_json(engine="json"))
    spec["layout"].pop("template", None)
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _svg_without_start(figure: Figure, prefix: str) -> Markup:
    """The figure as an SVG element after ``<svg``, with ids of its own; always the same bytes."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") + len("<svg") :]
    return Markup(re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg))


def _scripts() -> tuple[Markup, Markup]:
    from plotly.offline import get_plotlyjs  # slow to import, and most pages have no charts

    return Markup(get_plotlyjs()), _asset("charts.js")


def _asset(name: str) -> Markup:
    return Markup((files(_PACKAGE) / _FOLDER / name).read_text(encoding="utf-8"))
