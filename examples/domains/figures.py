"""The figures of docs/domains.md: a forest plot of all differences, and the curves of language."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from comparisons import COMPARISONS, Difference, Line
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from plan import PLAN

TICKS = (0.5, 0.7, 1, 1.4, 2)
"""Ratios of the forest plot; the outer ones are its ends."""


def forest(everything: list[Line]) -> Figure:
    """A panel for each comparison, a row for each line that has differences.

    With several domains, a comparison that one of them alone makes has no panel.
    Blue: the error is lower than the other's, the interval is below one; red: it is higher.
    A triangle stands for a ratio beyond the end of the panel.
    """
    places = [line for line in everything if line.differences]
    domains = {line.domain for line in places}
    titles = [
        title for title in COMPARISONS if len(_domains(places, title)) >= min(2, len(domains))
    ]
    names = [f"{line.domain}: {line.task}" if len(domains) > 1 else line.task for line in places]
    figure, axes = pyplot.subplots(
        1, len(titles), figsize=(3 + 1.9 * len(titles), 2 + 0.2 * len(names)), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, title in zip(axes[0], titles, strict=True):
        for place, line in enumerate(places):
            for each in (one for one in line.differences if one.title == title):
                _draw(axis, -place, each)
        for place, line in enumerate(places[1:]):
            if line.domain != places[place].domain:
                axis.axhline(-place - 0.5, color="black", linewidth=0.5, alpha=0.4)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xticks(TICKS)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlim(TICKS[0], TICKS[-1])
        axis.set_ylim(0.5 - len(places), 0.5)
        axis.grid(axis="x", alpha=0.3)
        axis.set_title(title.replace(" - ", " /\n"), fontsize=10)
    figure.supxlabel(
        "ratio of errors: left of 1, the first is better; triangle: beyond the panel", fontsize=10
    )
    axes[0, 0].set_yticks([-place for place in range(len(names))], names)
    return figure


def _draw(axis: Axes, place: float, difference: Difference) -> None:
    """The ratio of errors and its interval, at a height; a triangle at the end if it is beyond."""
    color = ("gray", "tab:red", "tab:blue")[difference.side]
    mean, low, high = (1 + end / 100 for end in difference[1:4])
    shown = min(max(mean, TICKS[0]), TICKS[-1])
    marker = "o" if shown == mean else "<" if mean < shown else ">"
    axis.plot((low, high), (place, place), color=color)
    axis.plot(shown, place, marker, color=color, markersize=4, clip_on=False)


def _domains(places: list[Line], title: str) -> set[str]:
    """The domains that make a comparison."""
    titles = ((line.domain, each.title) for line in places for each in line.differences)
    return {domain for domain, found in titles if found == title}


def language_curves(results: Path) -> Figure:
    """Bits per byte of the validation documents against the tokens seen, the mean of the seeds."""
    domain, declared = importlib.import_module("language").DOMAIN, PLAN["language"]
    figure, axes = pyplot.subplots(1, len(declared["tasks"]), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], declared["tasks"], strict=True):
        runs = domain.runs(results / "language.csv", task, declared["steps"])
        for arm in runs.tested(domain.rates):
            curves = [dict(_points(row["curve"])) for row in runs.done(arm, "test")]
            tokens = [count for count in curves[0] if all(count in curve for curve in curves)]
            means = [statistics.fmean(curve[count] for curve in curves) for count in tokens]
            axis.plot([count / 1e6 for count in tokens], means, ".-", label=arm)
        axis.set(title=task, xlabel="million tokens seen", ylabel="bits per byte (validation)")
        axis.grid(alpha=0.3)
        axis.legend(title="arm")
    return figure


def _points(curve: str) -> Iterator[tuple[int, float]]:
    """Pairs of the column ``curve``, "tokens:bits tokens:bits"."""
    for point in curve.split():
        tokens, bits = point.split(":")
        yield int(tokens), float(bits)
