"""A report as one HTML page that stands alone: no other file, nothing from the network.

The page follows the reader's light or dark mode and the width of the window. Figures are SVG, whose
parts show their titles where the mouse rests; there is no script.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from kat.analysis.figures.base import svg
from kat.files import write_text
from kat.tables import number_columns
from kat.text import printable

Rows = Sequence[Sequence[object]]
"""The cells of a table, row by row."""
_PACKAGE, _FOLDER = "kat.analysis.reports", "html"


class Report:
    """A page that grows from top to bottom. All text is escaped.

    Args:
        title: the title of the page, also its first heading.
        lead: the sentence below it: the result.

    Example:
        >>> report = Report("Verification")
        >>> report.text("4 of 4 checks passed.")
        >>> report.table(("backend", "error"), [("cpu", "1.2e-07")], bad=[False])
        >>> report.write(Path("verify.html"))
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title, self._lead = title, lead
        self._body: list[tuple[str, dict[str, Any]]] = []
        self._headings: list[dict[str, str]] = []
        self._figures = 0

    def heading(self, text: str) -> None:
        """Start a section; the top of the page links to it."""
        heading = {"text": text, "anchor": f"section{len(self._headings) + 1}"}
        self._headings.append(heading)
        self._add("heading", **heading)

    def text(self, text: str) -> None:
        """Add a paragraph of plain text."""
        self._add("text", text=text)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Add names with their values in large type, to be read first."""
        self._add("facts", facts=facts)

    def table(self, columns: Sequence[str], rows: Rows, bad: Sequence[bool] | None = None) -> None:
        """Add a table, floats with four decimals. Rows marked ``bad`` are shaded."""
        self._add("table", **_table_values(columns, rows, bad))

    def numbers(self, columns: Sequence[str], rows: Rows, summary: str = "Numbers") -> None:
        """Add a table that is closed until the reader opens it by its summary."""
        self._add("numbers", table_values=_table_values(columns, rows), summary=summary)

    def figure(self, figure: Figure, caption: str) -> None:
        """Add a figure as SVG, with a caption, which is also its text for screen readers."""
        svg = _svg_without_start(figure, f"figure{self._figures}")
        self._figures += 1
        self._add("figure", svg=svg, caption=caption)

    def html(self) -> str:
        """Render the page."""
        return (
            _environment()
            .get_template("page.html.jinja")
            .render(
                title=self._title,
                lead=self._lead,
                style=Markup((files(_PACKAGE) / _FOLDER / "page.css").read_text(encoding="utf-8")),
                headings=self._headings,
                body=self._body,
            )
        )

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        write_text(path, self.html())

    def _add(self, macro: str, **values: Any) -> None:
        """Add a part: a macro of parts.html.jinja and its arguments."""
        self._body.append((macro, values))


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(_PACKAGE, _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not Markup
    )


def _table_values(
    columns: Sequence[str], rows: Rows, bad: Sequence[bool] | None = None
) -> dict[str, Any]:
    texts = [list(map(_text, row)) for row in rows]
    return {
        "columns": columns,
        "rows": texts,
        "are_numbers": number_columns(texts, len(columns)),
        "are_bad": bad or [False] * len(texts),
    }


def _text(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _svg_without_start(figure: Figure, prefix: str) -> Markup:
    """Return the figure as an SVG element after ``<svg``, with its own ids; always the same."""
    text = svg(figure, prefix)
    text = text[text.index("<svg") + len("<svg") :]
    return Markup(re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", text))
