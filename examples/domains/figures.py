"""The figures of docs/domains.md: a forest plot of one comparison, and the curves of language."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from comparisons import Line
from matplotlib.figure import Figure
from plan import PLAN

from kat.analysis.figures import base

BELOW, ABOVE = base.colors(2)
"""The colors of intervals on either side of 0."""
TICKS = {0.6: "-40", 0.8: "-20", 1: "0", 1.25: "+25", 1.6: "+60", 2: "+100"}
"""Ratios of the forest plot as differences in percent; the outer ones are its ends."""


@base.styled
def forest(everything: list[Line], title: str = "GR-KAN - GELU") -> Figure:
    """Draws the ratio of errors of two arms on each line that has it, the lowest on top.

    A triangle stands for a ratio beyond the end of the axis.

    Args:
        everything: lines of any domains.
        title: one of :data:`comparisons.COMPARISONS`.
    """
    found = ((each, line) for line in everything for each in line.differences)
    drawn = [(each, line) for each, line in found if each.title == title]
    drawn.sort(key=lambda pair: pair[0].mean)
    figure = Figure(figsize=(base.WIDTH, 1.2 + 0.2 * len(drawn)), layout="constrained")
    axes, (first, *_, last) = figure.add_subplot(), TICKS
    for place, (each, _) in enumerate(drawn):
        color = (base.MUTED, ABOVE, BELOW)[each.side]
        mean, *ends = (1 + end / 100 for end in each[1:4])
        shown = min(max(mean, first), last)
        marker = "o" if shown == mean else "<" if mean < shown else ">"
        axes.plot(ends, (place, place), color=color)
        axes.plot(shown, place, marker, color=color, markersize=4, clip_on=False)
    axes.axvline(1, color=base.INK, lw=0.8)
    axes.set(xscale="log", xlim=(first, last), ylim=(len(drawn) - 0.5, -0.5))
    axes.set_xticks(list(TICKS), TICKS.values())
    axes.set_xticks([], minor=True)
    names = [f"{line.domain}: {line.task}" for _, line in drawn]
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("difference of the errors, %")
    figure.suptitle(f"{title}: 95 % intervals\ngray: the interval contains 0")
    return figure


@base.styled
def language_curves(results: Path) -> Figure:
    """Draws how far the bits per byte of each arm are from GELU's, against the tokens seen.

    Each value is the mean over the seeds, on the validation documents.
    """
    domain, declared = importlib.import_module("language").DOMAIN, PLAN["language"]
    figure, panels = base.panels(len(declared["tasks"]), 1, 3)
    for axes, task in zip(panels, declared["tasks"], strict=True):
        runs = domain.runs(results / "language.csv", task, declared["steps"])
        curves = {arm: _mean_curve(runs.done(arm, "test")) for arm in runs.tested(domain.rates)}
        base_line, drawn = curves["gelu"], []
        for arm, curve in curves.items():
            tokens = sorted(curve.keys() & base_line.keys())
            percent = [100 * (curve[count] / base_line[count] - 1) for count in tokens]
            drawn += axes.plot([count / 1e6 for count in tokens], percent, label=arm)
        axes.set(xlabel="million tokens seen", title=f"{task}: bits per byte, % above GELU's")
        base.label_lines(axes, drawn)
    return figure


def _mean_curve(rows: list[dict[str, str]]) -> dict[int, float]:
    """The mean of the runs' bits by the tokens that all of them have seen."""
    curves = [dict(_points(row["curve"])) for row in rows]
    shared = set.intersection(*map(set, curves))
    return {count: statistics.fmean(curve[count] for curve in curves) for count in shared}


def _points(curve: str) -> Iterator[tuple[int, float]]:
    """Pairs of the column ``curve``, "tokens:bits tokens:bits"."""
    for point in curve.split():
        tokens, bits = point.split(":")
        yield int(tokens), float(bits)
