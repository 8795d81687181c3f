"""Figures of predictions: confusion, reliability, mistakes; images beside their truth, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kat.analysis.figures.base import (
    INK,
    MUTED,
    WIDTH,
    draw_picture,
    label_lines,
    panels,
    plain,
    styled,
)
from kat.training.tasks.classification.metrics import Calibration

_NAMED, _COUNTED = 40, 20
"""Up to so many classes have their names and their counts drawn."""
_CELLS = 250
"""So many cells along a side are drawn at most."""
_WHOLE = (-0.03, 1.03)
"""Limits of an axis of shares; markers at 0 and at 1 are drawn whole."""
_COLUMNS = 3
"""Photographs side by side."""
_LONGEST = 24
"""Letters of a line; the confusion matrix cuts longer names of classes."""


@styled
def draw_confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """Draws the confusion matrix: each row as shares of its class, on a square-root color scale.

    With few classes the cells hold counts, and the classes are named. With many, the largest share
    of each block of neighboring classes is drawn, so that no confusion is too small to be seen.

    Args:
        matrix: (K, K) counts, true classes down, predicted ones across.
        names: the K class names.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    width = max(WIDTH, 0.3 * len(names)) if len(names) <= _NAMED else WIDTH
    figure = Figure(figsize=(width, 0.9 * width), layout="constrained")
    axes = figure.subplots()
    if len(names) <= _NAMED:
        _name_cells(axes, matrix, shares, names)
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
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


@styled
def draw_reliability(bins: Calibration) -> Figure:
    """Draws accuracy against confidence, and below it the share of images in each bin."""
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = bins.edges[:-1], np.diff(bins.edges)
    upper.bar(left, bins.accuracy, width, align="edge", edgecolor=MUTED)
    upper.plot(bins.confidence, bins.accuracy, ".", color=INK)
    diagonal = upper.plot([0, 1], [0, 1], "--", color=MUTED, lw=1, label="calibrated")
    title = f"reliability, ECE {bins.ece:.4f} (dots: at the mean confidence)"
    upper.set(xlim=_WHOLE, ylim=_WHOLE, ylabel="accuracy", title=title)
    label_lines(upper, diagonal)
    total = max(int(bins.counts.sum()), 1)
    lower.bar(left, bins.counts / total, width, align="edge", color=MUTED)
    lower.set(xlabel="confidence", ylabel="share of images")
    return figure


@styled
def draw_photographs(pictures: Tensor, titles: Sequence[str]) -> Figure:
    """Draws images in a grid, each under its whole title.

    Args:
        pictures: (B, C, H, W) uint8, gray or RGB.
        titles: B titles, whose long lines are broken.
    """
    broken = [[part for line in t.split("\n") for part in wrap(line, _LONGEST)] for t in titles]
    height = 1.8 + 0.17 * max(map(len, broken))
    figure, drawn = panels(len(pictures), _COLUMNS, height)
    for axes, picture, title in zip(drawn, pictures, broken, strict=True):
        draw_picture(axes, picture, title)
    return figure


@styled
def draw_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> Figure:
    """Draws a row for each image: its ground truth, and beside it what is predicted.

    Args:
        pairs: pictures, (3, H, W) uint8.
    """
    height = sum(WIDTH / 2 * truth.shape[-2] / truth.shape[-1] for truth, _ in pairs)
    figure = Figure(figsize=(WIDTH, 0.3 + height), layout="constrained")
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for row, pictures in zip(grid, pairs, strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            draw_picture(axes, picture)
    for axes, title in zip(grid[0], ("ground truth", "predicted"), strict=True):
        axes.set_title(title)
    return figure


@styled
def draw_by_class(names: Sequence[str], values: dict[str, list[float]]) -> Figure:
    """Draws a bar for each class and metric, the class with the highest first metric above.

    Args:
        names: the classes.
        values: in percent by the label of the metric, one for each class; NaN is not drawn.
    """
    first = next(iter(values.values()))
    order = sorted(range(len(names)), key=lambda i: -math.inf if math.isnan(first[i]) else first[i])
    figure = Figure(figsize=(WIDTH, 1.2 + 0.28 * len(names)), layout="constrained")
    axes, thick = figure.subplots(), 0.8 / len(values)
    for place, (label, own) in enumerate(values.items()):
        heights = [row + 0.4 - (place + 0.5) * thick for row in range(len(order))]
        bars = axes.barh(heights, [own[i] for i in order], thick)
        if len(values) > 1:  # the bars of the upper class have the names of the metrics
            axes.bar_label(bars, [*[""] * (len(order) - 1), label], padding=2, fontsize=8)
    axes.set_yticks(range(len(order)), [plain(names[i]) for i in order])
    axes.set(xlabel=f"{' and '.join(values)} (%)", xlim=(0, 100), ylim=(-0.6, len(names) - 0.4))
    axes.grid(visible=False, axis="y")
    return figure


def block_maxima(values: np.ndarray, block: int) -> np.ndarray:
    """Return the maximum of each block x block values; the last blocks may be smaller."""
    starts = np.arange(0, len(values), block)
    return np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)


def _name_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray, names: list[str]) -> None:
    cut = (f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}" for name in names)
    labels = [plain(n if len(n) <= _LONGEST else c) for n, c in zip(names, cut, strict=True)]
    places = range(len(names))
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    if len(names) > _COUNTED:
        return
    for i, j in np.argwhere(matrix > 0):
        color = "black" if shares[i, j] > 0.4 else "white"
        axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8, color=color)
