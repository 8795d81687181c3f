"""The figure of a metric against costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import Bbox

from kat.analysis.ablation import with_split
from kat.analysis.cost.pareto import COSTS, CostPoint, pareto_front, spans_decades
from kat.analysis.figures.labels import label_points, plain
from kat.analysis.figures.save import save_figure
from kat.analysis.learning_curves import METRICS
from kat.training.tasks.task import Metric

_NOTES = {"seconds": "\n(runs that went side by side slowed each other down)"}


def plot_costs(
    points: Sequence[CostPoint],
    costs: Sequence[str],
    path: Path,
    metric: Metric = METRICS["top1"],
) -> None:
    """Draws a metric with 95 % intervals against each cost, and the Pareto front as a line.

    Args:
        points: models, or the cells of a grid.
        costs: keys of :data:`kat.analysis.cost.pareto.COSTS`, one panel each.
        path: the path of the file; its suffix chooses the format.
        metric: what the points were measured by.

    Raises:
        InputError: a point does not have such a cost.
    """
    columns = min(2, len(costs))
    rows = math.ceil(len(costs) / columns)
    figure = Figure(figsize=(6 * columns, 4.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)[: len(costs)]
    label = with_split(metric)
    for axes, cost in zip(panels, costs, strict=True):
        _draw(axes, points, cost)
        axes.set_ylabel(f"{label} (%)")
    figure.suptitle(
        f"{metric.label} with 95 % interval; line: Pareto front"
        " (no other is both cheaper and better)",
        fontsize=10,
    )
    figure.draw_without_rendering()
    for axes, cost in zip(panels, costs, strict=True):
        places = [(point.cost(cost), point.metric.mean) for point in points]
        bars = [_bar(point, cost) for point in points]
        label_points(figure, axes, places, [plain(point.label) for point in points], bars)
    save_figure(figure, path)


def _draw(axes: Axes, points: Sequence[CostPoint], cost: str) -> None:
    front = pareto_front(points, cost)
    for point in points:
        axes.errorbar(
            point.cost(cost),
            point.metric.mean,
            yerr=_half_width(point),
            fmt="o",
            color="C0" if point in front else "0.5",
            capsize=3,
            lw=1,
        )
    on_front = [(point.cost(cost), point.metric.mean) for point in front]
    axes.plot(*zip(*on_front, strict=True), "-", color="C0", lw=1, alpha=0.6, zorder=0)
    if spans_decades(points, cost):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.margins(0.15)
    axes.set_xlabel(COSTS[cost] + _NOTES.get(cost, ""))
    axes.grid(alpha=0.3)


def _half_width(point: CostPoint) -> float:
    """Half the interval that is drawn: 0 for one seed."""
    return 0.0 if math.isnan(point.metric.half_width) else point.metric.half_width


def _bar(point: CostPoint, cost: str) -> Bbox:
    x, y, half = point.cost(cost), point.metric.mean, _half_width(point)
    return Bbox.from_extents(x, y - half, x, y + half)
