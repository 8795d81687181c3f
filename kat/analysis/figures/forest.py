"""The figure of all comparisons of several grids: a line for each paired difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from kat.analysis.ablation import CellResult, Estimate, has_intervals, with_split
from kat.analysis.figures.ablation import draw_estimate
from kat.analysis.figures.labels import plain
from kat.analysis.figures.save import save_figure
from kat.training.tasks.task import Metric

_LINE = 0.26
"""The height of a line, in inches."""
_FAR = 2
"""How many times the median reach of all differences is far beyond them."""


def plot_forest(grids: Mapping[str, Sequence[CellResult]], metric: Metric, path: Path) -> None:
    """Draws the paired differences of all cells with 95 % intervals, grid below grid.

    An arrow stands for a difference far beyond the others; its value is beside it, as of all.

    Args:
        grids: by name, what :func:`kat.analysis.ablation.summarize` returns; the first cell is the
            reference, and cells without a difference are left out.
        metric: the metric that was summarized.
        path: the path of the file; its suffix chooses the format.
    """
    lines = [line for name, results in grids.items() for line in _lines(name, results)]
    figure = Figure(figsize=(9, 1.1 + _LINE * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="black", lw=0.8)
    values = axes.secondary_yaxis("right")
    shown = _shown([line.difference for line in lines if line.difference is not None])
    for place, line in enumerate(lines):
        if line.difference is None:
            continue
        color, mean = "C0" if line.decided else "0.5", line.difference.mean
        if abs(mean) <= shown:
            draw_estimate(axes, place, line.difference, color)
        else:
            axes.plot(math.copysign(shown, mean), place, "<" if mean < 0 else ">", color=color)
    if math.isfinite(shown):
        axes.set_xlim(-1.05 * shown, 1.05 * shown)
    axes.set_yticks(range(len(lines)), [plain(line.name) for line in lines])
    values.set_yticks(range(len(lines)), [line.text for line in lines])
    for line, label in zip(lines, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if line.difference is None else "normal")
    axes.set_ylim(len(lines) - 0.5, -0.5)
    for side in (axes, values):
        side.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["left", "right", "top"]].set_visible(False)
    values.spines["right"].set_visible(False)
    axes.set_xlabel(f"difference from the grid's first cell (points of {with_split(metric)})")
    figure.suptitle(_title([cell for results in grids.values() for cell in results]), fontsize=10)
    save_figure(figure, path)


def _shown(differences: Sequence[Estimate]) -> float:
    """The largest difference on the axis: all, unless some reach far beyond the others."""
    reaches = [abs(d.mean) + (0 if math.isnan(d.half_width) else d.half_width) for d in differences]
    reaches = [reach for reach in reaches if reach > 0]  # ties have none
    limit = _FAR * statistics.median(reaches) if reaches else math.inf
    return math.inf if max(reaches, default=0.0) <= limit else limit


@dataclass(frozen=True)
class _Line:
    """A comparison, or the heading of a grid, which has no difference."""

    name: str
    difference: Estimate | None = None

    @property
    def text(self) -> str:
        return "" if self.difference is None else self.difference.text(sign=True)

    @property
    def decided(self) -> bool:
        """Whether there is an interval that excludes 0."""
        found = self.difference
        return found is not None and abs(found.mean) > found.half_width


def _lines(name: str, results: Sequence[CellResult]) -> list[_Line]:
    compared = [_Line(cell.name, cell.difference) for cell in results if cell.difference]
    return [_Line(f"{name} (minus {results[0].name})"), *compared] if compared else []


def _title(results: Sequence[CellResult]) -> str:
    if not has_intervals(results):
        return "differences seed by seed; one seed, no intervals"
    return "differences seed by seed with 95 % intervals; gray: it contains 0, or there is none"
