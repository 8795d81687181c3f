"""Figures of grids of runs: the cells of one, the comparisons of several, results against costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from kat.analysis.ablation import CellResult, Estimate, has_intervals, with_split
from kat.analysis.choices import COSTS
from kat.analysis.figures import base
from kat.analysis.figures.base import colors, hover, plain
from kat.errors import InputError
from kat.training.tasks.declared import Metric

_LINE, _LETTERS, _TITLE = 0.36, 24, 60
"""The height of a line of a forest in inches, and the most letters side by side: name and title."""
_COLUMN, _COLUMN_LETTERS = 3.4, 46
"""The width of a column in inches, whose text can be read on a phone, and the letters of a line."""
_FAR = 2
"""A reach of more than so many median reaches is far beyond the others."""


@base.styled
def draw_cells(results: Sequence[CellResult], metric: Metric, title: str) -> Figure:
    """Draw a metric by cell, the best on top: mean, 95 % interval, all runs.

    The right side has the differences from the reference, seed by seed.

    Args:
        results: what :func:`kat.analysis.ablation.summarize` returns; the cell without a difference
            is the reference.
        metric: the metric that was summarized.
        title: the title of the figure.
    """
    ranked = sorted(results, key=lambda r: -r.estimate.mean if r.estimate else math.inf)
    figure, axes = _forest([(result.name, result.difference) for result in ranked])
    for place, result in enumerate(ranked):
        if result.name == results[0].name:
            axes.get_yticklabels()[place].set_fontweight("bold")
        for seed, value in result.values.items():
            (dot,) = axes.plot(value, place, ".", color=base.MUTED)
            hover(dot, f"{result.name}, seed {seed}: {value:.2f}")
        if result.estimate is not None:
            _draw_estimate(axes, place, result.name, result.estimate, colors(1)[0], percent=True)
    shown = "mean, 95 % interval, every run" if has_intervals(results) else "one seed"
    axes.set_xlabel(f"{with_split(metric)} (%): {shown}")
    reference = f"right: the difference from {plain(results[0].name)}"
    figure.suptitle(f"{fill(plain(title), _TITLE)}\n{fill(reference, _TITLE)}")
    return figure


def _forest(lines: Sequence[tuple[str, Estimate | None]]) -> tuple[Figure, Axes]:
    """Return a figure with a line for each name, the first on top, its difference on the right."""
    names, values = [], []
    for name, difference in lines:
        names.append(fill(plain(name), _LETTERS))
        values.append("" if difference is None else difference.text(sign=True))
    figure = Figure(figsize=(base.WIDTH, 1.3 + _LINE * len(names)), layout="constrained")
    axes = figure.add_subplot()
    right = axes.secondary_yaxis("right")
    for side, texts in ((axes, names), (right, values)):
        side.set_yticks(range(len(names)), texts)
        side.tick_params(axis="y", length=0)
        side.spines[["left", "right"]].set_visible(False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure, axes


def _draw_estimate(
    axes: Axes, place: int, name: str, estimate: Estimate, color: str, percent: bool = False
) -> None:
    """Draw a mean and its interval, if it has one, in a row of the axes."""
    width = None if math.isnan(estimate.half_width) else [[end] for end in estimate.reach(percent)]
    line, *_ = axes.errorbar(estimate.mean, place, xerr=width, fmt="o", color=color, capsize=3)
    hover(line, f"{name}: {estimate.text(sign=not percent, percent=percent)} (n = {estimate.n})")


@base.styled
def draw_forest(groups: Mapping[str, Sequence[tuple[str, Estimate]]], xlabel: str) -> Figure:
    """Draw differences with their 95 % intervals, group below group, the largest on top.

    A name and its value are above the interval. An arrow stands for a difference far beyond the
    others.

    Args:
        groups: by heading, differences and their names.
        xlabel: what the differences are, with their unit.
    """
    headings: dict[int, str] = {}
    lines: list[tuple[str, Estimate | None]] = []
    for heading, differences in groups.items():
        headings[len(lines)] = heading
        lines += [("", None), *sorted(differences, key=lambda pair: -pair[1].mean)]
    size = _COLUMN, 1 + 1.2 * _LINE * len(lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=base.INK, lw=0.8, alpha=0.4)
    for place, heading in headings.items():
        _write(axes, place + 0.1, plain(heading), size=8, weight="bold")
    drawn = [difference for _, difference in lines if difference is not None]
    shown = _shown(drawn)
    for place, (name, difference) in enumerate(lines):
        if difference is None:
            continue
        mean = difference.mean
        _write(axes, place - 0.22, f"{difference.text(sign=True)}  {plain(name)}", size=8)
        color = colors(1)[0] if abs(mean) > difference.half_width else base.MUTED
        if abs(mean) <= shown:
            _draw_estimate(axes, place, name, difference, color)
        else:
            axes.plot(math.copysign(shown, mean), place, "<" if mean < 0 else ">", color=color)
    if math.isfinite(shown):
        axes.set_xlim(-1.05 * shown, 1.05 * shown)
    axes.set_xlabel(fill(xlabel, _COLUMN_LETTERS))
    title = "differences seed by seed; one seed, no intervals"
    if any(difference.n > 1 for difference in drawn):
        title = "differences seed by seed, 95 % intervals\ngray: it contains 0, or there is none"
    figure.suptitle(title)
    return figure


def _write(axes: Axes, place: float, text: str, **font: Any) -> None:
    """Write a text from the left edge on, above a line."""
    written = axes.text(
        0,
        place,
        fill(text, _COLUMN_LETTERS),
        va="bottom",
        transform=axes.get_yaxis_transform(),
        **font,
    )
    written.set_in_layout(False)


def _shown(differences: Sequence[Estimate]) -> float:
    """Return the largest difference on the axis: all, unless some reach far beyond the others."""
    reaches = [abs(d.mean) + np.nan_to_num(d.half_width) for d in differences]
    reaches = [reach for reach in reaches if reach > 0]  # ties have none
    limit = _FAR * statistics.median(reaches) if reaches else math.inf
    return math.inf if max(reaches, default=0.0) <= limit else limit


def cost_of(result: CellResult, cost: str) -> float | None:
    """Return a cost of :data:`COSTS`: the mean seconds, or the cost of the first seed's run."""
    known = result.seconds if cost == "seconds" else result.row.get(COSTS[cost][0])
    return None if known is None else float(known)


def pareto_front(results: Sequence[CellResult], cost: str) -> list[CellResult]:
    """Return the cells that no other beats: none has a higher mean at no higher cost.

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


@base.styled
def draw_costs(
    results: Sequence[CellResult], metric: Metric, costs: Sequence[str] | None = None
) -> Figure:
    """Draw a metric with 95 % intervals against each cost, and the Pareto front as a line.

    Args:
        results: models, or the cells of a grid; those without an estimate are left out.
        metric: what was summarized.
        costs: keys of :data:`COSTS`, one panel each; None: those that all cells have.

    Raises:
        InputError: a cell does not have such a cost.
    """
    drawn = [result for result in results if result.estimate is not None]
    if costs is None:
        costs = list(COSTS)
        for result in drawn:
            costs = [cost for cost in costs if cost_of(result, cost) is not None]
    figure, made = base.panels(len(costs), 1, 2.8)
    for axes, cost in zip(made, costs, strict=True):
        front = pareto_front(drawn, cost)
        values = {result.name: cost_of(result, cost) or 0.0 for result in drawn}
        means = [result.estimate.mean for result in front if result.estimate]
        axes.plot([values[r.name] for r in front], means, "-", color=base.MUTED, lw=1, zorder=0)
        points = []
        for result, color in zip(drawn, colors(len(drawn)), strict=True):
            estimate, x = result.estimate, values[result.name]
            assert estimate is not None
            ends = np.nan_to_num(estimate.reach(percent=True))[:, None]
            line, *_ = axes.errorbar(x, estimate.mean, ends, fmt="o", color=color, capsize=3, lw=1)
            line.set_label(plain(result.name))
            hover(line, f"{result.name}: {estimate.text(percent=True)} % at {x:.4g}")
            points.append(line)
        if max(values.values()) > 10 * min(values.values()):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.margins(0.15)
        axes.set(xlabel=COSTS[cost][1], title=f"{with_split(metric)} (%)")
        base.label_lines(axes, points)
    figure.suptitle(
        f"{metric.label} with 95 % interval; line: Pareto front\n"
        "(no other is both cheaper and better)"
    )
    return figure
