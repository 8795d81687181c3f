"""Figures of predictions: confusion, reliability, mistakes; images beside their truth, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kat.analysis.figures.base import draw_picture, panels, plain
from kat.training.tasks.classification.metrics import Calibration, most_confused

_NAMED, _COUNTED = 40, 20
"""Up to so many classes have their names and their counts drawn."""
_CELLS, _PAIRS = 250, 20
"""So many cells along a side, and so many pairs, are drawn at most."""
_WHOLE = (-0.03, 1.03)
"""Limits of an axis of shares; markers at 0 and at 1 are drawn whole."""
_ARROW = "\N{RIGHTWARDS ARROW}"
_COLUMNS = 6
"""Mistakes side by side."""
_LONGEST = 24
"""Letters of a class name that are drawn at most."""


def draw_confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """Draws the confusion matrix: each row as shares of its class, on a square-root color scale.

    With few classes the cells hold counts, and the classes are named. With many, the largest share
    of each block of neighboring classes is drawn, so that no confusion is too small to be seen, and
    the most frequent confusions are listed beside it.

    Args:
        matrix: (K, K) counts, true classes down, predicted ones across.
        names: the K class names.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(names) <= _NAMED:
        size = 3.5 + 0.3 * max(len(names), 8)
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        axes = figure.subplots()
        _name_cells(axes, matrix, shares, names)
    else:
        figure = Figure(figsize=(15, 8), layout="constrained")
        axes, side = figure.subplots(1, 2, width_ratios=(3, 2))
        _list_pairs(side, matrix, names)
    block = -(-len(names) // _CELLS)
    image = axes.imshow(
        block_maxima(shares, block),
        norm=mpl.colors.PowerNorm(0.5, 0, 1),
        cmap="viridis",
        interpolation="nearest",
        extent=(-0.5, len(names) - 0.5, len(names) - 0.5, -0.5),
    )
    scale = "share of the true class" + (f", largest of {block} x {block}" if block > 1 else "")
    figure.colorbar(image, ax=axes, label=scale, shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="true class", title="confusion")
    return figure


def draw_reliability(bins: Calibration) -> Figure:
    """Draws accuracy against confidence, and below it the share of images in each bin."""
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = bins.edges[:-1], np.diff(bins.edges)
    upper.bar(left, bins.accuracy, width, align="edge", edgecolor="white", label="accuracy")
    upper.plot(bins.confidence, bins.accuracy, "k.", label="at the mean confidence")
    upper.plot([0, 1], [0, 1], "--", color="gray", lw=1, label="calibrated")
    upper.set(ylim=_WHOLE, ylabel="accuracy", title=f"reliability, ECE {bins.ece:.4f}")
    upper.legend(loc="upper left")
    total = max(int(bins.counts.sum()), 1)
    lower.bar(left, bins.counts / total, width, align="edge", edgecolor="white", color="C7")
    lower.set(xlim=_WHOLE, xlabel="confidence", ylabel="share of images")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def draw_mistakes(pictures: Tensor, titles: Sequence[str]) -> Figure:
    """Draws images that are predicted wrongly, each under its title.

    Args:
        pictures: (B, C, H, W) uint8, gray or RGB.
        titles: B titles.
    """
    figure, drawn = panels(len(pictures), _COLUMNS, (2.2, 2.6))
    for axes, picture, title in zip(drawn, pictures, titles, strict=True):
        draw_picture(axes, picture, [_cut(line) for line in title.split("\n")])
    return figure


def draw_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> Figure:
    """Draws a column for each image: its ground truth, and below it what is predicted.

    Args:
        pairs: pictures, (3, H, W) uint8.
    """
    figure = Figure(figsize=(3.2 * len(pairs), 6.8), layout="constrained")
    rows = figure.subplots(2, len(pairs), squeeze=False)
    for row, title, pictures in zip(
        rows, ("ground truth", "predicted"), zip(*pairs, strict=True), strict=True
    ):
        row[0].set_ylabel(title)
        for axes, picture in zip(row, pictures, strict=True):
            draw_picture(axes, picture)
    return figure


def draw_by_class(names: Sequence[str], values: dict[str, list[float]]) -> Figure:
    """Draws a bar for each class and metric, the class with the highest first metric above.

    Args:
        names: the classes.
        values: in percent by the label of the metric, one for each class; NaN is not drawn.
    """
    first = next(iter(values.values()))
    order = sorted(range(len(names)), key=lambda i: -math.inf if math.isnan(first[i]) else first[i])
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(names)), layout="constrained")
    axes, thick = figure.subplots(), 0.8 / len(values)
    for place, (label, own) in enumerate(values.items()):
        heights = [row + 0.4 - (place + 0.5) * thick for row in range(len(order))]
        axes.barh(heights, [own[i] for i in order], thick, label=label)
    axes.set_yticks(range(len(order)), [plain(names[i]) for i in order], fontsize=8)
    axes.set(xlabel="%", xlim=(0, 100), ylim=(-0.6, len(names) - 0.4))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def block_maxima(values: np.ndarray, block: int) -> np.ndarray:
    """The maximum of each block x block values; the last blocks may be smaller."""
    starts = np.arange(0, len(values), block)
    return np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)


def _name_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray, names: list[str]) -> None:
    labels = [_short(name) for name in names]
    places = range(len(names))
    axes.set_xticks(places, labels, rotation=90, fontsize=8)
    axes.set_yticks(places, labels, fontsize=8)
    if len(names) > _COUNTED:
        return
    for i, j in np.argwhere(matrix > 0):
        color = "black" if shares[i, j] > 0.4 else "white"
        axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=7, color=color)


def _list_pairs(axes: Axes, matrix: np.ndarray, names: list[str]) -> None:
    pairs = most_confused(matrix, names, _PAIRS)
    labels = [f"{_short(pair.true)} {_ARROW} {_short(pair.predicted)}" for pair in pairs]
    shares = [100 * pair.count / pair.images for pair in pairs]
    axes.barh(range(len(pairs)), shares)
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="% of the true class", title=f"most confused: true {_ARROW} predicted")
    for place, pair in enumerate(pairs):
        axes.text(shares[place], place, f" {pair.count}", va="center", fontsize=8)


def _cut(name: str) -> str:
    """A name of at most so many letters as are drawn."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _short(name: str) -> str:
    return plain(_cut(name))
