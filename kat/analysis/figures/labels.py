"""Labels of points in a figure, placed so that they hide neither points nor each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_STEP = 3.0
"""Between the places that are tried, in pixels."""
_MARGIN = 3.0
"""Around a label, in pixels."""


def free_place(
    size: tuple[float, float], anchor: tuple[float, float], bounds: Box, taken: Sequence[Box]
) -> tuple[float, float]:
    """The centre of a box near an anchor that lies within bounds and meets no other box.

    Where there is no such place, the one that meets the fewest.

    Args:
        size: (width, height) of the box.
        anchor: (x, y) of what it belongs to.
        bounds: where it may be.
        taken: the other boxes.
    """
    (width, height), (left, bottom, right, top) = size, bounds
    x, y = np.meshgrid(
        _places(left + width / 2, right - width / 2),
        _places(bottom + height / 2, top - height / 2),
    )
    met = np.zeros(x.shape)
    for low_x, low_y, high_x, high_y in taken:
        apart_x = np.abs(x - (low_x + high_x) / 2) - (width + high_x - low_x) / 2
        apart_y = np.abs(y - (low_y + high_y) / 2) - (height + high_y - low_y) / 2
        met += (apart_x < 0) & (apart_y < 0)
    away_x, away_y = np.abs(x - anchor[0]), np.abs(y - anchor[1])
    gap = np.hypot(np.maximum(away_x - width / 2, 0), np.maximum(away_y - height / 2, 0))
    order = np.lexsort(((away_x + away_y).ravel(), gap.ravel(), met.ravel()))
    return float(x.flat[order[0]]), float(y.flat[order[0]])


def _places(low: float, high: float) -> np.ndarray:
    return np.linspace(low, max(low, high), 1 + max(0, int((high - low) / _STEP)))


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    taken: Sequence[Box],
) -> list[Text]:
    """Writes a label beside each point, with a line to it.

    The limits and scales of the axes must be final, and the figure laid out.

    Args:
        figure: of the axes.
        axes: where the points are.
        points: (x, y) in data coordinates.
        texts: one a point.
        taken: what must not be hidden, in data coordinates.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [_padded(_in_pixels(axes, box)) for box in taken]
    window = axes.get_window_extent(renderer)
    bounds = window.x0, window.y0, window.x1, window.y1
    labels: list[Text] = []
    for (x, y), text in zip(points, texts, strict=True):
        label = axes.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkB": 3},
        )
        label.set_in_layout(False)
        anchor = axes.transData.transform((x, y))
        extent = Text.get_window_extent(label, renderer)
        size = extent.width + 2 * _MARGIN, extent.height + 2 * _MARGIN
        place = free_place(size, (anchor[0], anchor[1]), bounds, boxes)
        label.set_position(tuple((np.array(place) - anchor) * 72 / figure.dpi))
        boxes.append(_around(place, size))
        labels.append(label)
    return labels


def _in_pixels(axes: Axes, box: Box) -> Box:
    (left, bottom), (right, top) = axes.transData.transform([box[:2], box[2:]])
    return left, bottom, right, top


def _padded(box: Box) -> Box:
    return box[0] - _MARGIN, box[1] - _MARGIN, box[2] + _MARGIN, box[3] + _MARGIN


def _around(place: tuple[float, float], size: tuple[float, float]) -> Box:
    (x, y), (width, height) = place, size
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
