"""Labels hide neither points nor each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from kat.analysis.figures.labels import label_points, plain


def _label(points, half_height=0.0, bounds=(0, 10)):
    """The axes, and the box of each label in pixels."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=bounds, ylim=bounds)
    figure.draw_without_rendering()
    bars = [Bbox.from_extents(x, y - half_height, x, y + half_height) for x, y in points]
    texts = [f"point {n}: a longer name" for n in range(len(points))]
    labels = label_points(figure, axes, points, texts, bars)
    assert [label.get_text() for label in labels] == texts
    figure.draw_without_rendering()
    return axes, [Text.get_window_extent(label) for label in labels]


@pytest.mark.filterwarnings("error")
def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], label=plain("_kat"))
    (text,) = axes.legend().get_texts()
    assert text.get_text().endswith("_kat")
    figure.draw_without_rendering()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("half_height", [0.0, 0.4])
def test_labels_of_a_crowd_hide_nothing(seed, half_height):
    rng = np.random.default_rng(seed)
    points = [(1 + 4 * (n % 3), 5 + 1.5 * rng.normal()) for n in range(14)]
    axes, boxes = _label(points, half_height)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for x, y in points:
        bar = axes.transData.transform([(x, y - half_height), (x, y), (x, y + half_height)])
        assert not any(box.contains(*place) for box in boxes for place in bar)
    inside = axes.get_window_extent()
    assert all(inside.contains(*corner) for box in boxes for corner in box.corners())


def test_a_label_is_beside_its_point_where_there_is_room():
    points = [(2, 2), (2, 8), (9, 5)]
    axes, boxes = _label(points)
    for (x, y), box, side in zip(axes.transData.transform(points), boxes, (1, 1, -1), strict=True):
        gap = box.x0 - x if side > 0 else x - box.x1
        assert 4 < gap < 10
        assert box.y0 < y < box.y1


def test_where_no_place_is_free_the_label_is_beside_its_point():
    axes, (box,) = _label([(5, 5)], half_height=5, bounds=(4.99, 5.01))
    x, _ = axes.transData.transform((5, 5))
    assert box.x0 > x
