"""Results as HTML for notebooks, in the colors of the page around them, light or dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL import Image, ImageOps

_SIDE = 320
"""The longer side of a picture, in pixels."""


def table_html(values: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values; a float has a bar, which is full at 1."""
    rows = []
    for name, value in values:
        cell = escape(str(value))
        if isinstance(value, float):
            cell = f'<progress value="{value}"></progress> {value:.4f}'
        rows.append(f"<tr><th>{escape(name)}</th><td>{cell}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def picture_html(picture: Image.Image) -> str:
    """Return an element that contains a picture, all in the same size."""
    file = io.BytesIO()
    ImageOps.contain(picture, (_SIDE, _SIDE)).save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="" src="data:image/png;base64,{content}"></p>'
