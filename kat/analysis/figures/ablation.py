"""The figure of a grid: every run, the mean of each cell with its interval, the differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kat.analysis.ablation import CellResult, Estimate, has_intervals
from kat.analysis.figures.labels import plain
from kat.analysis.figures.save import save_figure
from kat.training.tasks.task import Metric


def plot_cells(results: Sequence[CellResult], metric: Metric, title: str, path: Path) -> None:
    """Draws a metric by cell with 95 % intervals and all runs, next to the paired differences.

    Args:
        results: what :func:`kat.analysis.ablation.summarize` returns; the cell without a difference
            is the reference.
        metric: the metric that was summarized.
        title: the title of the figure.
        path: the path of the file; its suffix chooses the format.
    """
    figure = Figure(figsize=(10, 1.6 + 0.42 * len(results)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, result in enumerate(results):
        left.plot(list(result.values.values()), [place] * len(result.values), ".", color="0.6")
        for axes, estimate in ((left, result.estimate), (right, result.difference)):
            if estimate is not None:
                draw_estimate(axes, place, estimate)
    left.set_yticks(range(len(results)), [plain(result.name) for result in results])
    left.set_ylim(len(results) - 0.5, -0.5)
    right.axvline(0, color="black", lw=0.8)
    shown = "mean, 95 % interval, and every run" if has_intervals(results) else "one seed"
    left.set(xlabel=f"{metric.label} (%)", title=shown)
    right.set(xlabel=f"points of {metric.label}", title="difference from the first, seed by seed")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(plain(title))
    save_figure(figure, path)


def draw_estimate(axes: Axes, place: int, estimate: Estimate, color: str = "C0") -> None:
    """Draws a mean and its interval, if it has one, in a row of the axes."""
    width = None if math.isnan(estimate.half_width) else estimate.half_width
    axes.errorbar(estimate.mean, place, xerr=width, fmt="o", color=color, capsize=4)
