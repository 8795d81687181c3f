"""Figures: learning curves, and fits of functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from kat.files import replacing

if TYPE_CHECKING:
    from kat.nn.fitting import Fit, Points

History = Sequence[Mapping[str, float]]


def plot_learning_curves(histories: Mapping[str, History], path: Path) -> None:
    """Draws loss and top-1 against epochs, one colour a run.

    Args:
        histories: label of each run to its rows (:func:`kat.training.read_history`).
        path: where to write; the suffix chooses the format (png, svg, pdf).
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (label, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        style: dict[str, Any] = {"color": f"C{number}"}
        left.plot(epochs, [row["train_loss"] for row in rows], ":", **style)
        left.plot(epochs, [row["val_loss"] for row in rows], "-", label=label, **style)
        right.plot(epochs, [row["top1"] for row in rows], "-", label=label, **style)
    left.set(xlabel="epoch", ylabel="cross entropy", title="loss (dotted: training)")
    right.set(xlabel="epoch", ylabel="top-1 (%)", title="validation accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


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
