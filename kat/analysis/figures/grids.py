"""Figures of grids of runs: the cells of one, the comparisons of several, results against costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from kat.analysis.ablation import CellResult, Estimate, has_intervals, with_split
from kat.analysis.figures.base import colors, hover, panels, plain
from kat.errors import InputError
from kat.training.tasks.task import Metric

COSTS = {
    "parameters": ("parameters", "parameters"),
    "flops": ("flops", "FLOPs per image"),
    "seconds": (
        "seconds",
        "seconds of a training run\n(runs that went side by side slowed each other down)",
    ),
    "memory": ("memory_bytes", "peak memory of a training process (bytes)"),
}
"""The costs of a model: columns of a table of runs, and titles."""
_LINE = 0.26
"""The height of a line of the forest, in inches."""
_FAR = 2
"""How many times the median reach of all differences is far beyond them."""


def draw_cells(results: Sequence[CellResult], metric: Metric, title: str) -> Figure:
    """Draws a metric by cell with 95 % intervals and all runs, next to the paired differences.

    Args:
        results: what :func:`kat.analysis.ablation.summarize` returns; the cell without a difference
            is the reference.
        metric: the metric that was summarized.
        title: the title of the figure.
    """
    figure = Figure(figsize=(10, 1.6 + 0.42 * len(results)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, result in enumerate(results):
        for seed, value in result.values.items():
            (dot,) = left.plot(value, place, ".", color="0.6")
            hover(dot, f"{result.name}, seed {seed}: {value:.2f}")
        for axes, estimate in ((left, result.estimate), (right, result.difference)):
            if estimate is not None:
                _draw_estimate(axes, place, result.name, estimate, sign=axes is right)
    left.set_yticks(range(len(results)), [plain(result.name) for result in results])
    left.set_ylim(len(results) - 0.5, -0.5)
    right.axvline(0, color="black", lw=0.8)
    shown = "mean, 95 % interval, and every run" if has_intervals(results) else "one seed"
    left.set(xlabel=f"{metric.label} (%)", title=shown)
    right.set(xlabel=f"points of {metric.label}", title="difference from the first, seed by seed")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(plain(title))
    return figure


def _draw_estimate(
    axes: Axes, place: int, name: str, estimate: Estimate, color: str = "C0", sign: bool = True
) -> None:
    """Draws a mean and its interval, if it has one, in a row of the axes."""
    width = None if math.isnan(estimate.half_width) else estimate.half_width
    line, *_ = axes.errorbar(estimate.mean, place, xerr=width, fmt="o", color=color, capsize=4)
    hover(line, f"{name}: {estimate.text(sign=sign)} (n = {estimate.n})")


def draw_forest(groups: Mapping[str, Sequence[tuple[str, Estimate]]], xlabel: str) -> Figure:
    """Draws differences with their 95 % intervals, group below group.

    An arrow stands for a difference far beyond the others; its value is beside it, as of all.

    Args:
        groups: by heading, differences and their names.
        xlabel: what the differences are, with their unit.
    """
    lines: list[tuple[str, Estimate | None]] = []
    for heading, differences in groups.items():
        lines += [(heading, None), *differences]
    figure = Figure(figsize=(9, 1.1 + _LINE * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="black", lw=0.8)
    drawn = [difference for _, difference in lines if difference is not None]
    shown = _shown(drawn)
    for place, (name, difference) in enumerate(lines):
        if difference is None:
            continue
        mean = difference.mean
        color = "C0" if abs(mean) > difference.half_width else "0.5"
        if abs(mean) <= shown:
            _draw_estimate(axes, place, name, difference, color)
        else:
            axes.plot(math.copysign(shown, mean), place, "<" if mean < 0 else ">", color=color)
    if math.isfinite(shown):
        axes.set_xlim(-1.05 * shown, 1.05 * shown)
    values = axes.secondary_yaxis("right")
    axes.set_yticks(range(len(lines)), [plain(name) for name, _ in lines])
    texts = ["" if estimate is None else estimate.text(sign=True) for _, estimate in lines]
    values.set_yticks(range(len(lines)), texts)
    for (_, difference), label in zip(lines, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if difference is None else "normal")
    axes.set_ylim(len(lines) - 0.5, -0.5)
    for side in (axes, values):
        side.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["left", "right", "top"]].set_visible(False)
    values.spines["right"].set_visible(False)
    axes.set_xlabel(xlabel)
    title = "differences seed by seed; one seed, no intervals"
    if any(difference.n > 1 for difference in drawn):
        title = (
            "differences seed by seed with 95 % intervals; gray: it contains 0, or there is none"
        )
    figure.suptitle(title, fontsize=10)
    return figure


def _shown(differences: Sequence[Estimate]) -> float:
    """The largest difference on the axis: all, unless some reach far beyond the others."""
    reaches = [abs(d.mean) + (0 if math.isnan(d.half_width) else d.half_width) for d in differences]
    reaches = [reach for reach in reaches if reach > 0]  # ties have none
    limit = _FAR * statistics.median(reaches) if reaches else math.inf
    return math.inf if max(reaches, default=0.0) <= limit else limit


def cost_of(result: CellResult, cost: str) -> float | None:
    """One of :data:`COSTS`: seconds are the mean over the seeds, the others those of the first."""
    known = result.seconds if cost == "seconds" else result.row.get(COSTS[cost][0])
    return None if known is None else float(known)


def pareto_front(results: Sequence[CellResult], cost: str) -> list[CellResult]:
    """The cells that no other beats: none costs at most as much and has a higher mean metric.

    Args:
        results: in any order; those without an estimate are left out.
        cost: one of :data:`COSTS`.

    Returns:
        The cheapest first; of cells that are equal in both, the first.

    Raises:
        InputError: a cell does not have this cost.
    """
    points = []
    for result in results:
        if result.estimate is not None:
            value = cost_of(result, cost)
            if value is None:
                raise InputError(f"{result.name!r} has no {cost}")
            points.append((value, -result.estimate.mean, result))
    front: list[CellResult] = []
    best = math.inf
    for _, worse, result in sorted(points, key=lambda point: point[:2]):
        if worse < best:
            front.append(result)
            best = worse
    return front


def draw_costs(
    results: Sequence[CellResult], metric: Metric, costs: Sequence[str] | None = None
) -> Figure:
    """Draws a metric with 95 % intervals against each cost, and the Pareto front as a line.

    Args:
        results: models, or the cells of a grid; those without an estimate are left out.
        metric: what was summarized.
        costs: keys of :data:`COSTS`, one panel each; None: those that all cells have.

    Raises:
        InputError: a cell does not have such a cost.
    """
    drawn = [result for result in results if result.estimate is not None]
    if costs is None:
        costs = [c for c in COSTS if all(cost_of(result, c) is not None for result in drawn)]
    figure, made = panels(len(costs), 2, (6, 4.4))
    for axes, cost in zip(made, costs, strict=True):
        front = pareto_front(drawn, cost)
        values = {result.name: cost_of(result, cost) or 0.0 for result in drawn}
        places = [(values[r.name], r.estimate.mean) for r in front if r.estimate]
        axes.plot(*zip(*places, strict=True), "-", color="0.5", lw=1, zorder=0)
        for result, color in zip(drawn, colors(len(drawn)), strict=True):
            estimate = result.estimate
            assert estimate is not None
            half = 0.0 if math.isnan(estimate.half_width) else estimate.half_width
            marker = {"fmt": "o", "color": color, "capsize": 3, "lw": 1}
            x = values[result.name]
            line, *_ = axes.errorbar(x, estimate.mean, half, label=plain(result.name), **marker)
            hover(line, f"{result.name}: {estimate.text()} % at {x:.4g}")
        if max(values.values()) > 10 * min(values.values()):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.margins(0.15)
        axes.set(xlabel=COSTS[cost][1], ylabel=f"{with_split(metric)} (%)")
        axes.grid(alpha=0.3)
    handles, labels = made[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        f"{metric.label} with 95 % interval; line: Pareto front"
        " (no other is both cheaper and better)",
        fontsize=10,
    )
    return figure
