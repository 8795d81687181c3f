"""Figures of the predictions of detectors and segmentation models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from kat.analysis.figures.labels import plain
from kat.analysis.figures.pictures import draw_picture


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
