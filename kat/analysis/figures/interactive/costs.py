"""A metric against costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from kat.analysis.ablation import with_split
from kat.analysis.cost.pareto import COSTS, CostPoint, pareto_front, spans_decades
from kat.analysis.figures.interactive.base import GREY, figure, line_color, literal, numbers
from kat.training.tasks.task import Metric


def costs(points: Sequence[CostPoint], metric: Metric) -> go.Figure:
    """Draws a metric with 95 % intervals and the Pareto front against a cost the reader chooses.

    Args:
        points: models, or the cells of a grid.
        metric: what the points were measured by.
    """
    known = [cost for cost in COSTS if all(cost in point.costs for point in points)]
    places = {cost: _places(points, cost) for cost in known}
    title = {"text": f"{with_split(metric)} (%)"}
    drawn = figure(420, yaxis={"title": title}, **_axis(points, known[0]))
    for place, point in enumerate(points):
        label = literal(point.label)
        half_width = numbers([point.metric.half_width])
        drawn.add_scatter(
            error_y={"type": "data", "array": half_width, "thickness": 1.5},
            mode="markers",
            name=label,
            marker={"color": line_color(place), "size": 10},
            hovertemplate=f"{point.metric.text()} % at %{{x:.4s}}<extra>{label}</extra>",
        )
    front = {"color": GREY, "dash": "dot"}
    drawn.add_scatter(mode="lines", name="no other is both cheaper and better", line=front)
    for trace, (x, y) in zip(drawn.data, zip(*places[known[0]].values(), strict=True), strict=True):
        trace.update(x=x, y=y)
    buttons = [
        {"label": cost, "method": "update", "args": [places[cost], _axis(points, cost)]}
        for cost in known
    ]
    below = {"x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "pad": {"t": 48}}
    return drawn.update_layout(updatemenus=[{"buttons": buttons, "direction": "up", **below}])


def _places(points: Sequence[CostPoint], cost: str) -> dict[str, list[list[Any]]]:
    """The coordinates of each point, then of the front."""
    lines = [*([point] for point in points), pareto_front(points, cost)]
    return {
        "x": [numbers(point.cost(cost) for point in line) for line in lines],
        "y": [numbers(point.metric.mean for point in line) for line in lines],
    }


def _axis(points: Sequence[CostPoint], cost: str) -> dict[str, Any]:
    kind = "log" if spans_decades(points, cost) else "linear"
    return {"xaxis.title.text": COSTS[cost], "xaxis.type": kind}
