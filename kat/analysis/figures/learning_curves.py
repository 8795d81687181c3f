"""The figure of learning curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kat.analysis.choices import COLUMNS, PANELS
from kat.analysis.figures import base
from kat.analysis.figures.base import hover, label_lines, plain, save_figure
from kat.analysis.runs import HEADLINES, History
from kat.errors import InputError
from kat.tables import columns_of


def usual_curves(row: Mapping[str, Any]) -> list[str]:
    """Return the panels that summarize a run with such a row: its loss and main metric."""
    loss = "loss" if "val_loss" in row else "train_loss"
    return [loss, *[name for name in HEADLINES if name in row][:1]]


def plot_learning_curves(
    runs: Mapping[str, Sequence[History]],
    path: str | Path,
    metrics: Sequence[str] = ("loss", "top1"),
) -> None:
    """Draw metrics against epochs, one color per label: of several runs their mean and range.

    A circle marks the epoch that a run keeps. Draw only epochs that every run reached.

    Args:
        runs: histories (:func:`kat.training.read_history`) by label.
        path: the path of the file; its suffix chooses the format (png, svg, pdf).
        metrics: names of :data:`kat.analysis.choices.PANELS`, one panel each.

    Raises:
        InputError: there is no epoch at which all runs of a label have the metric.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import plot_learning_curves
        >>> from kat.training import read_history
        >>> plot_learning_curves({"KAT": [read_history(Path("runs/digits"))]}, Path("curves.png"))
    """
    save_figure(draw_learning_curves(runs, metrics), path)


@base.styled
def draw_learning_curves(
    runs: Mapping[str, Sequence[History]], metrics: Sequence[str] = ("loss", "top1")
) -> Figure:
    """Draw the figure of :func:`plot_learning_curves`."""
    figure, drawn = base.panels(len(metrics), 1, 2.6)
    for axes, metric in zip(drawn, metrics, strict=True):
        title, columns = PANELS[metric]
        lines: list[Line2D] = []
        for (label, histories), color in zip(runs.items(), base.colors(len(runs)), strict=True):
            for column, style in columns.items():
                line = _draw_curve(axes, label, histories, column, color, style)
                if len(runs) == 1 < len(columns):
                    line.set_label(COLUMNS[column].split()[0])
                    lines.append(line)
            count = f" ({len(histories)} runs)" if len(histories) > 1 else ""
            if len(runs) > 1 or (count and not lines):
                line.set_label(plain(label) + count)
                lines.append(line)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        dotted = " (dotted: training)" if len(columns) > 1 < len(runs) else ""
        axes.set(xlabel="epoch", title=title + dotted)
        label_lines(axes, lines)
    return figure


def _draw_curve(
    axes: Axes, label: str, histories: Sequence[History], column: str, color: Any, style: str
) -> Line2D:
    """Draw one column: the mean of the runs over their common epochs, in the range of them."""
    found: dict[float, list[float]] = {}
    for row in itertools.chain.from_iterable(histories):
        if column in row:
            found.setdefault(row["epoch"], []).append(row[column])
    epochs = [epoch for epoch in sorted(found) if len(found[epoch]) == len(histories)]
    if not epochs:
        known = columns_of(itertools.chain.from_iterable(histories))
        raise InputError(
            f"{label!r} has no epoch at which all its runs have {column}; their histories have"
            f" {', '.join(known) or 'no rows'}"
        )
    values = [found[epoch] for epoch in epochs]
    (line,) = axes.plot(epochs, [sum(row) / len(row) for row in values], style, color=color)
    hover(line, f"{label}, {COLUMNS[column]}")
    if len(histories) > 1:
        low, high = list(map(min, values)), list(map(max, values))
        axes.fill_between(epochs, low, high, color=color, alpha=0.15, lw=0)
        return line
    for row in histories[0]:
        if row.get("best") and column in row:
            epoch, value = row["epoch"], row[column]
            (circle,) = axes.plot(epoch, value, "o", color=color, fillstyle="none")
            hover(circle, f"{label}: kept, epoch {epoch}: {value:.4g}")
    return line
