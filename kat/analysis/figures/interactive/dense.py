"""Average precision by the overlap that counts as a hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from kat.analysis.figures.interactive.base import figure, line_color, literal, numbers


def ap_by_overlap(overlaps: Sequence[float], rows: Sequence[Sequence[Any]]) -> go.Figure:
    """Draws AP against the least IoU of a hit, one line per class.

    Args:
        overlaps: the least IoUs.
        rows: the name of each class, and its APs in percent.
    """
    drawn = figure(340, xaxis={"title": {"text": "least IoU"}}, showlegend=True)
    drawn.update_yaxes(title={"text": "box AP (%)"}, rangemode="tozero")
    for place, (name, *values) in enumerate(rows):
        shown = literal(name)
        drawn.add_scatter(
            x=list(overlaps),
            y=numbers(values),
            mode="lines+markers",
            name=shown,
            line={"color": line_color(place), "width": 2},
            hovertemplate=f"IoU %{{x}}: %{{y:.4g}}<extra>{shown}</extra>",
        )
    return drawn
