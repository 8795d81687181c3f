"""What all interactive figures share: an empty figure, the colors of lines, safe names."""

from __future__ import annotations

import html
import math
from typing import Any

import plotly.graph_objects as go

from kat.text import printable

SERIES = (
    "#2f7ed8", "#d26329", "#2a9464", "#c9428e", "#8a63d2",
    "#9a7b00", "#158b9a", "#d64545", "#76808a", "#a0654a",
)  # fmt: skip
"""Colors of lines, in order; on a light and on a dark page their contrast is at least 3.5."""
GREY = "#8a929b"


def numbers(values: Any) -> list[Any]:
    """The values to six digits; None for what is not finite."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]


def literal(name: str) -> str:
    """A name that plotly shows letter by letter: not as tags, entities, formulas, or fields."""
    escaped = html.escape(printable(name), quote=False)
    return escaped.replace("%", "&#37;").replace("$", "&#36;")


def line_color(place: int) -> str:
    """The color of the line at a place, counted from 0."""
    return SERIES[place % len(SERIES)]


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure with the legend above it, as wide as there is room."""
    legend = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
    legend |= {"y": 1, "yref": "container", "yanchor": "top"}
    margin = {"l": 8, "r": 12, "t": 12, "b": 8}
    whole = {"namelength": -1}  # a name that is cut short could be cut within an entity
    shown = {"height": height, "legend": legend, "margin": margin, "hoverlabel": whole}
    return go.Figure(layout={**shown, **layout})
