"""Reports as one self-contained HTML page: no other file, no script, nothing from the network."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from kat.files import write_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; }
tr.bad td { background: #fde4e1; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #555; }
"""


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
        self._parts = [f"<h1>{self._title}</h1>"]

    def heading(self, text: str) -> None:
        """A section starts."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        bad: Sequence[bool] | None = None,
    ) -> None:
        """A table; the rows marked ``bad`` are shaded."""
        marks = bad if bad is not None else [False] * len(rows)
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "\n".join(map(_row, rows, marks))
        self._parts.append(f"<table><tr>{head}</tr>\n{body}</table>")

    def figure(self, figure: Figure, caption: str) -> None:
        """A figure, drawn as SVG, with a caption, which is also its text for who cannot see it."""
        number = sum(part.startswith("<figure") for part in self._parts)
        caption = html.escape(caption)
        svg = _svg(figure, f"figure{number}").replace(
            "<svg ", f'<svg role="img" aria-label="{caption}" ', 1
        )
        self._parts.append(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>")

    def html(self) -> str:
        """The page."""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self._title}</title><style>{_STYLE}</style></head><body>\n"
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        write_text(path, self.html())


def _row(cells: Sequence[object], bad: bool) -> str:
    mark = ' class="bad"' if bad else ""
    return f"<tr{mark}>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element whose ids are its own on the page; the same bytes every time."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
