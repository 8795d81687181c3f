"""The figure of learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kat.analysis.figures.labels import plain
from kat.analysis.figures.save import save_figure
from kat.analysis.learning_curves import COLUMNS, Curve, History, curve

_PANELS = {
    "loss": ("loss (dotted: training; circle: kept epoch)", {"train_loss": ":", "val_loss": "-"}),
    **{column: (title, {column: "-"}) for column, title in COLUMNS.items()},
}
"""The title and the lines of each panel."""
CURVES = tuple(_PANELS)


def plot_learning_curves(
    runs: Mapping[str, Sequence[History]],
    path: str | Path,
    metrics: Sequence[str] = ("loss", "top1"),
) -> None:
    """Draws metrics against epochs, one color per label: of several runs their mean and range.

    A circle marks the epoch that a run keeps.

    Args:
        runs: histories (:func:`kat.training.read_history`) by label.
        path: the path of the file; its suffix chooses the format (png, svg, pdf).
        metrics: keys of :data:`CURVES`, one panel each.

    Raises:
        InputError: there is no epoch at which all runs of a label have the metric.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import plot_learning_curves
        >>> from kat.training import read_history
        >>> plot_learning_curves({"KAT": [read_history(Path("runs/digits"))]}, Path("curves.png"))
    """
    figure = Figure(figsize=(5 * len(metrics), 4), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        title, columns = _PANELS[metric]
        for label, color in zip(runs, _colors(len(runs)), strict=True):
            for column, style in columns.items():
                _draw_curve(axes, curve(label, runs[label], column), style, color)
            count = f" ({len(runs[label])} runs)" if len(runs[label]) > 1 else ""
            axes.plot([], [], color=color, label=plain(label) + count)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path)


def _draw_curve(axes: Axes, drawn: Curve, style: str, color: Any) -> None:
    axes.plot(drawn.epochs, drawn.mean, style, color=color)
    if drawn.low != drawn.high:
        axes.fill_between(drawn.epochs, drawn.low, drawn.high, color=color, alpha=0.15, lw=0)
    if drawn.best is not None:
        axes.plot(*drawn.best, "o", color=color, fillstyle="none")


def _colors(count: int) -> list[Any]:
    """Distinct colors: matplotlib's default ones if they suffice."""
    if count <= 10:
        return [f"C{number}" for number in range(count)]
    return list(mpl.colormaps["turbo"](np.linspace(0, 1, count)))
