"""Text in figures: names as they are, and labels of points."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from kat.text import printable

_GAP = 8.0
"""Between a point and its label, in pixels."""


def plain(text: str) -> str:
    """Printable text that matplotlib does not read as mathematics, nor leaves out of a legend."""
    text = printable(text).replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    taken: Sequence[Bbox],
) -> list[Text]:
    """Writes a label near each point, at the nearest place that is free, with a line to the point.

    The places to the right and left of the point are tried first, then those higher and lower. A
    label that finds no free place stands to the right of its point.

    The limits and scales of the axes must be final, and the figure laid out.

    Args:
        figure: the figure that the axes belong to.
        axes: where the points are.
        points: (x, y) in data coordinates.
        texts: one for each point.
        taken: what the labels must not hide, in data coordinates.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    window = axes.get_window_extent(renderer)
    boxes = [box.transformed(axes.transData).padded(_GAP / 2) for box in taken]
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
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkB": 3},
        )
        label.set_in_layout(False)
        width, height = Text.get_window_extent(label, renderer).size
        center_x, center_y = axes.transData.transform((x, y))
        moves = list(_moves(width, height, window.height))
        places = [
            Bbox.from_bounds(center_x + dx - width / 2, center_y + dy - height / 2, width, height)
            for dx, dy in moves
        ]
        free = (n for n, place in enumerate(places) if _is_free(place, window, boxes))
        chosen = next(free, 0)
        dx, dy = moves[chosen]
        label.set_position((72 * dx / figure.dpi, 72 * dy / figure.dpi))
        boxes.append(places[chosen])
        labels.append(label)
    return labels


def _moves(width: float, height: float, farthest: float) -> Iterator[tuple[float, float]]:
    """Where the center of a label can be, from its point, in pixels; the nearest places first."""
    beside, step = width / 2 + _GAP, height / 2
    yield from ((beside, 0.0), (-beside, 0.0))
    for distance in itertools.takewhile(lambda d: d < farthest, itertools.count(step, step)):
        yield from itertools.product((beside, -beside, 0.0), (distance, -distance))


def _is_free(place: Bbox, window: Bbox, boxes: Sequence[Bbox]) -> bool:
    inside = all(window.contains(*corner) for corner in place.corners())
    return inside and not place.count_overlaps(boxes)
