"""Figures: learning curves, and fits of functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kat.analysis.learning_curves import COLUMNS, Curve, History, curve
from kat.files import replacing

if TYPE_CHECKING:
    from kat.nn.fitting import Fit, Points

_PANELS = {
    "loss": ("loss (dotted: training)", {"train_loss": ":", "val_loss": "-"}),
    **{column: (title, {column: "-"}) for column, title in COLUMNS.items()},
}
"""Title and lines of what is drawn of learning curves."""
CURVES = tuple(_PANELS)


def plot_learning_curves(
    runs: Mapping[str, Sequence[History]], path: Path, metrics: Sequence[str] = ("loss", "top1")
) -> None:
    """Draws metrics against epochs, one colour a label; of several runs the mean in their range.

    Args:
        runs: label of each line to the rows of its runs (:func:`kat.training.read_history`).
        path: where to write; the suffix chooses the format (png, svg, pdf).
        metrics: of :data:`CURVES`, a panel each.

    Raises:
        InputError: runs of one label have no epoch in common that has the metric.
    """
    figure = Figure(figsize=(5 * len(metrics), 4), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        title, columns = _PANELS[metric]
        for label, color in zip(runs, _colors(len(runs)), strict=True):
            for column, style in columns.items():
                _draw_curve(axes, curve(label, runs[label], column), style, color)
            count = f" ({len(runs[label])} runs)" if len(runs[label]) > 1 else ""
            axes.plot([], [], color=color, label=label + count)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path)


def _draw_curve(axes: Axes, drawn: Curve, style: str, color: Any) -> None:
    axes.plot(drawn.epochs, drawn.mean, style, color=color)
    if drawn.low != drawn.high:
        axes.fill_between(drawn.epochs, drawn.low, drawn.high, color=color, alpha=0.15, lw=0)


def _colors(count: int) -> list[Any]:
    """So many colours: matplotlib's usual ones as far as they go."""
    if count <= 10:
        return [f"C{number}" for number in range(count)]
    return list(mpl.colormaps["turbo"](np.linspace(0, 1, count)))


def plot_fit(result: Fit, target: str | Points, path: Path) -> None:
    """Draws a function with its fit, and the error below, to twice the interval.

    A function's error is drawn on a scale that is linear about as far as the largest error on the
    interval, and logarithmic beyond.

    Args:
        result: what :func:`kat.nn.fitting.fit` has made of the target.
        target: the target.
        path: where to write; the suffix chooses the format.
    """
    from kat.nn.fitting import Points, resolve, twice

    source = resolve(target)[1]
    x = np.linspace(*twice(result.interval), 2001)
    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    known = isinstance(source, Points)
    at, y = (source.x, source.y) if isinstance(source, Points) else (x, source(x))
    style: dict[str, Any] = {"color": "black", "alpha": 0.4, "label": result.function}
    upper.plot(at, y, "." if known else "-", lw=3, **style)
    upper.set_ylim(upper.get_ylim())
    upper.plot(x, result(x), "C1", lw=1.2, label=f"F, form {result.form}, degree {result.degree}")
    lower.plot(at, result(at) - y, "C1." if known else "C1", lw=1)
    lower.axhspan(-result.max_error, result.max_error, color="C2", alpha=0.15, lw=0)
    if not known and result.max_error > 0:
        lower.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(result.max_error)))
    low, high = result.interval
    for axes in (upper, lower):
        axes.axvspan(low, high, color="C0", alpha=0.08, lw=0)
        axes.grid(alpha=0.3)
    upper.legend(loc="upper left")
    upper.set_title(f"{result.function}, fitted on [{low:g}, {high:g}] (shaded)")
    lower.set(xlabel="x", ylabel=f"F - f (band: {result.max_error:.2g})")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the path's suffix, the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {".svg": "Date", ".pdf": "CreationDate"}
    metadata: dict[str, Any] = {dates[path.suffix]: None} if path.suffix in dates else {}
    with replacing(path) as partial, mpl.rc_context({"svg.hashsalt": "kat"}):
        figure.savefig(partial, dpi=150, metadata=metadata)
