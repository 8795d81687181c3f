"""Accuracy against cost: the front, the points, and labels that hide nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from matplotlib.text import Text

from kat.analysis.ablation import Estimate, summarize
from kat.analysis.cost.runs import CostPoint, cost_points, pareto_front
from kat.analysis.figures.labels import free_place
from kat.analysis.figures.run_cost import plot_costs
from kat.errors import InputError


def _point(label, top1, parameters, half_width=math.nan):
    costs = {"parameters": parameters, "seconds": 60.0 + parameters}
    return CostPoint(label, Estimate(top1, half_width, 1), costs)


def _crowd(count=14):
    rng = np.random.default_rng(3)
    return [
        _point(f"cell {n}: a longer name", 85 + rng.normal(), 2e5 + 4e3 * (n % 3), 0.4)
        for n in range(count)
    ]


def test_points_are_the_cells_that_have_a_result():
    row = {"status": "done", "parameters": 10, "flops": 200, "memory_bytes": None}
    rows = [
        {**row, "cell": "a", "seed": 0, "top1": 80.0, "seconds": 50.0},
        {**row, "cell": "a", "seed": 1, "top1": 84.0, "seconds": 70.0},
        {"cell": "b", "seed": 0, "status": "diverged", "top1": None},
    ]
    (point,) = cost_points(summarize(rows))
    assert (point.label, point.score) == ("a", Estimate.of([80.0, 84.0]))
    assert point.costs == {"parameters": 10, "flops": 200, "seconds": 60.0}
    with pytest.raises(InputError, match="'a' has no memory; it has parameters, flops, seconds"):
        point.cost("memory")


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    points = [_point(str(n), *rng.integers(0, 12, 2)) for n in range(60)]
    front = pareto_front(points, "parameters")
    places = [(p.score.mean, p.costs["parameters"]) for p in points]

    def is_beaten(top1, cost):
        return any(t >= top1 and c <= cost and (t, c) != (top1, cost) for t, c in places)

    assert [(p.score.mean, p.costs["parameters"]) for p in front] == sorted(
        {place for place in places if not is_beaten(*place)}
    )


def test_a_place_is_the_nearest_that_is_free():
    bounds = (0.0, 0.0, 200.0, 100.0)
    taken = [(95.0, 45.0, 105.0, 55.0)]
    x, y = free_place((40.0, 10.0), (100.0, 50.0), bounds, taken)
    gap = max(abs(x - 100) - 20, abs(y - 50) - 5)  # from the anchor to the box
    assert 5 <= gap <= 8
    x, y = free_place((40.0, 10.0), (1.0, 99.0), bounds, [])
    assert 20 <= x <= 180
    assert 5 <= y <= 95


def test_labels_hide_neither_points_nor_each_other(tmp_path, figures):
    points = _crowd()
    plot_costs(points, ["parameters"], tmp_path / "cost.svg")
    figure = figures[0]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [Text.get_window_extent(label) for label in axes.texts]
    assert [t.get_text() for t in axes.texts] == [p.label for p in points]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    dots = axes.transData.transform([(p.costs["parameters"], p.score.mean) for p in points])
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
    inside = axes.get_window_extent()
    assert all(inside.contains(*corner) for box in boxes for corner in box.corners())


@pytest.mark.parametrize(("largest", "scale"), [(900.0, "linear"), (1100.0, "log")])
def test_an_axis_is_logarithmic_where_the_range_asks_for_it(tmp_path, figures, largest, scale):
    plot_costs([_point("a", 80, 100.0), _point("b", 81, largest)], ["parameters"], tmp_path / "c")
    assert figures[0].axes[0].get_xscale() == scale


def test_the_front_and_the_intervals_are_drawn(tmp_path, figures):
    points = [_point("a", 80, 100.0, 0.5), _point("b", 79, 200.0), _point("c", 82, 300.0, 0.25)]
    plot_costs(points, ["parameters", "seconds"], tmp_path / "c.svg")
    axes, seconds = figures[0].axes
    assert list(axes.lines[-1].get_xdata()) == [100.0, 300.0]
    assert "side by side" in seconds.get_xlabel()
    heights = [np.ptp(bars.get_segments()[0][:, 1]) for bars in axes.collections]
    assert heights == pytest.approx([1.0, 0.0, 0.5])


def test_four_panels_are_written(tmp_path):
    path = tmp_path / "cost.svg"
    plot_costs(_crowd(3), ["parameters", "seconds"], path)
    assert "cell 2: a longer name" in path.read_text()
    with pytest.raises(InputError, match="has no flops"):
        plot_costs(_crowd(3), ["flops"], tmp_path / "none.svg")
    assert [p.name for p in tmp_path.iterdir()] == ["cost.svg"]
