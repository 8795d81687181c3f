"""The figure of accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from kat.analysis.labels import Box, label_points
from kat.analysis.plots import save_figure
from kat.analysis.run_cost import COSTS, CostPoint, pareto_front

_LOG_FROM = 10.0
"""The ratio of the largest to the smallest cost from which the axis is logarithmic."""
_NOTES = {"seconds": "\n(runs that went side by side have disturbed each other)"}


def plot_costs(points: Sequence[CostPoint], costs: Sequence[str], path: Path) -> None:
    """Draws top-1 with 95 % intervals against each cost, the Pareto front as a line.

    Args:
        points: models, or the cells of a grid.
        costs: of :data:`kat.analysis.run_cost.COSTS`, a panel each.
        path: where to write; the suffix chooses the format.

    Raises:
        InputError: a point does not have such a cost.
    """
    columns = min(2, len(costs))
    rows = math.ceil(len(costs) / columns)
    figure = Figure(figsize=(6 * columns, 4.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)[: len(costs)]
    for axes, cost in zip(panels, costs, strict=True):
        _draw(axes, points, cost)
    figure.suptitle(
        "top-1 with 95 % interval; line: Pareto front (no other is both cheaper and better)",
        fontsize=10,
    )
    figure.draw_without_rendering()
    for axes, cost in zip(panels, costs, strict=True):
        places = [(point.cost(cost), point.top1.mean) for point in points]
        bars = [_bar(point, cost) for point in points]
        label_points(figure, axes, places, [point.label for point in points], bars)
    save_figure(figure, path)


def _draw(axes: Axes, points: Sequence[CostPoint], cost: str) -> None:
    front = pareto_front(points, cost)
    for point in points:
        axes.errorbar(
            point.cost(cost),
            point.top1.mean,
            yerr=_half_width(point),
            fmt="o",
            color="C0" if point in front else "0.5",
            capsize=3,
            lw=1,
        )
    on_front = [(point.cost(cost), point.top1.mean) for point in front]
    axes.plot(*zip(*on_front, strict=True), "-", color="C0", lw=1, alpha=0.6, zorder=0)
    values = [point.cost(cost) for point in points]
    if max(values) > _LOG_FROM * min(values):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.margins(0.15)
    axes.set(xlabel=COSTS[cost] + _NOTES.get(cost, ""), ylabel="top-1 (%)")
    axes.grid(alpha=0.3)


def _half_width(point: CostPoint) -> float:
    """Of the interval that is drawn: none for one seed."""
    return 0.0 if math.isnan(point.top1.half_width) else point.top1.half_width


def _bar(point: CostPoint, cost: str) -> Box:
    x, y, half = point.cost(cost), point.top1.mean, _half_width(point)
    return x, y - half, x, y + half
