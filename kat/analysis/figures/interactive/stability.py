"""Quantities of a monitored run by layer and step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kat.analysis.figures.interactive.base import figure, line_color, literal, numbers


def gains(steps: Sequence[int], layers: Sequence[str], values: Any) -> go.Figure:
    """Draws the gain by layer and step, on a scale from 1/8 to 8; 1 is preserved.

    Args:
        steps: S of them.
        layers: L names.
        values: (L, S), NaN where there is none.
    """
    powers = list(range(-3, 4))
    drawn = figure(90 + 22 * len(layers), xaxis={"title": {"text": "step"}})
    drawn.add_heatmap(
        x=list(map(str, steps)),
        y=list(map(literal, layers)),
        z=[numbers(map(_log2, row)) for row in values],
        customdata=[numbers(row) for row in values],
        autocolorscale=True,  # the page's
        zmin=powers[0],
        zmax=powers[-1],
        colorbar={"tickvals": powers, "ticktext": [f"{2.0**p:g}" for p in powers], "thickness": 12},
        hovertemplate="%{y}, step %{x}: gain %{customdata:.3g}<extra></extra>",
    )
    drawn.update_yaxes(type="category", autorange="reversed")
    return drawn.update_xaxes(type="category", nticks=8)


def _log2(value: float) -> float:
    return math.log2(value) if 0 < value < math.inf else math.nan


def by_step(lines: Mapping[str, tuple[Sequence[int], Any]], title: str) -> go.Figure:
    """Draws a quantity against training steps, one line per layer."""
    drawn = figure(320, xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": title}})
    drawn.update_layout(showlegend=False)
    for place, (name, (steps, values)) in enumerate(lines.items()):
        drawn.add_scatter(
            x=list(steps),
            y=numbers(values),
            mode="lines",
            line={"color": line_color(place), "width": 1.6},
            hovertemplate=f"step %{{x}}: %{{y:.3g}}<extra>{literal(name)}</extra>",
        )
    return drawn
