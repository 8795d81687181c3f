"""Figures of predictions: confusion, reliability, mistakes; images beside their truth, by class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kat.analysis.figures.base import (
    INK,
    MUTED,
    WIDTH,
    colors,
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
_OPACITY = 0.85
"""The opacity of a share of 1, at which text is readable on a light and on a dark page."""
_COLUMNS = 3
"""Photographs side by side."""
_LONGEST = 24
"""Letters of a line; the confusion matrix cuts longer names of classes."""


@styled
def draw_confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """Draw the confusion matrix: each row as shares of its class; 0 is the color of the page.

    With few classes the cells hold counts, and the classes are named. With many, the largest share
    of each block of neighboring classes is drawn.

    Args:
        matrix: (K, K) counts, true classes down, predicted ones across.
        names: the K class names.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    width = max(WIDTH, 0.3 * len(names)) if len(names) <= _NAMED else WIDTH
    figure = Figure(figsize=(width, 0.9 * width), layout="constrained")
    axes = figure.subplots()
    if len(names) <= _NAMED:
        _name_cells(axes, matrix, names)
    block = -(-len(names) // _CELLS)
    color = colors(1)[0]
    transparent, most = mpl.colors.to_rgba(color, 0), mpl.colors.to_rgba(color, _OPACITY)
    image = axes.imshow(
        block_maxima(shares, block),
        vmin=0,
        vmax=1,
        cmap=mpl.colors.LinearSegmentedColormap.from_list("shares", [transparent, most]),
        interpolation="nearest",
        extent=(-0.5, len(names) - 0.5, len(names) - 0.5, -0.5),
    )
    scale = "share of the true class" + (f", largest of {block} x {block}" if block > 1 else "")
    bar = figure.colorbar(image, ax=axes, label=scale, shrink=0.8)
    bar.ax.collections[0].set_rasterized(True)  # transparent polygons would have seams
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


@styled
def draw_reliability(bins: Calibration) -> Figure:
    """Draw accuracy against confidence, and below it the share of images in each bin."""
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
    """Draw images in a grid, each under its whole title.

    Args:
        pictures: (B, C, H, W) uint8, gray or RGB.
        titles: B titles, whose long lines are broken.
    """
    broken = []
    for title in titles:
        parts = [wrap(line, _LONGEST) for line in title.split("\n")]
        broken.append(list(itertools.chain.from_iterable(parts)))
    height = 1.8 + 0.17 * max(map(len, broken))
    figure, drawn = panels(len(pictures), _COLUMNS, height)
    for axes, picture, lines in zip(drawn, pictures, broken, strict=True):
        draw_picture(axes, picture, lines)
    return figure


@styled
def draw_pairs(pairs: Sequence[tuple[Tensor, Tensor]]) -> Figure:
    """Draw a row for each image: its ground truth, and beside it what is predicted.

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
def draw_by_class(rows: Sequence[Sequence[Any]], metrics: Sequence[str]) -> Figure:
    """Draw a bar for each class and metric, the last class on top.

    Args:
        rows: a class and its metrics, in percent; NaN is not drawn.
        metrics: the labels of the metrics.
    """
    figure = Figure(figsize=(WIDTH, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes, thick = figure.subplots(), 0.8 / len(metrics)
    places = np.arange(len(rows))
    for column, label in enumerate(metrics, start=1):
        heights = places + 0.4 - (column - 0.5) * thick
        bars = axes.barh(heights, [row[column] for row in rows], thick)
        if len(metrics) > 1:  # the bars of the upper class have the names of the metrics
            axes.bar_label(bars, [*[""] * (len(rows) - 1), label], padding=2, fontsize=8)
    axes.set_yticks(places, [plain(row[0]) for row in rows])
    axes.set(xlabel=f"{' and '.join(metrics)} (%)", xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4))
    axes.grid(visible=False, axis="y")
    return figure


def block_maxima(values: np.ndarray, block: int) -> np.ndarray:
    """Return the maximum of each block x block values; the last blocks may be smaller."""
    starts = np.arange(0, len(values), block)
    return np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)


def _name_cells(axes: Axes, matrix: np.ndarray, names: list[str]) -> None:
    labels = [plain(_cut(name)) for name in names]
    places = range(len(names))
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    if len(names) > _COUNTED:
        return
    for i, j in np.argwhere(matrix > 0):
        axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
