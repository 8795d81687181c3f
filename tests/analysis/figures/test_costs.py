"""Accuracy against cost: the front, the intervals, the axes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kat.analysis.ablation import CellResult, Estimate, summarize
from kat.analysis.figures.grids import cost_of, draw_costs, pareto_front
from kat.analysis.runs import METRICS
from kat.errors import InputError

TOP1 = METRICS["top1"]


def _point(label, top1, parameters, half_width=math.nan):
    estimate = Estimate(float(top1), half_width, 1)
    row = {"parameters": parameters}
    return CellResult(label, {0: top1}, estimate, None, [], row, 60.0 + parameters)


def test_costs_are_those_of_the_cells_that_have_a_result():
    row = {"cell": "a", "status": "done", "parameters": 10, "flops": 200, "memory_bytes": None}
    rows = [{**row, "seed": n, "top1": 80.0 + 4 * n, "seconds": 50.0 + 20 * n} for n in (0, 1)]
    results = summarize([*rows, {"cell": "b", "seed": 0, "status": "diverged", "top1": None}])
    found = [cost_of(results[0], cost) for cost in ("parameters", "flops", "seconds", "memory")]
    assert found == [10, 200, 60, None]
    assert [result.name for result in pareto_front(results, "flops")] == ["a"]
    with pytest.raises(InputError, match="no memory"):
        pareto_front(results, "memory")
    drawn = draw_costs(results, TOP1).axes
    assert sum(axes.axison for axes in drawn) == 3  # those that are known


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    places = [tuple(map(int, rng.integers(0, 12, 2))) for _ in range(60)]
    points = [_point(str(n), *place) for n, place in enumerate(places)]
    front = pareto_front(points, "parameters")

    def is_beaten(top1, cost):
        return any(t >= top1 and c <= cost and (t, c) != (top1, cost) for t, c in places)

    assert [(p.estimate.mean, p.row["parameters"]) for p in front] == sorted(
        {place for place in places if not is_beaten(*place)}
    )


def test_the_front_and_the_intervals_are_drawn():
    points = [_point("a", 80, 100, 0.5), _point("b", 79, 200), _point("c", 82, 300, 0.25)]
    figure = draw_costs(points, TOP1, ["parameters", "seconds"])
    axes, seconds = figure.axes
    titles = [panel.get_title(loc="left") for panel in (axes, seconds)]
    assert titles == ["validation top-1 (%)"] * 2
    assert list(axes.lines[0].get_xdata()) == [100, 300]
    assert "side by side" in seconds.get_xlabel()
    heights = [np.ptp(bars.get_segments()[0][:, 1]) for bars in axes.collections]
    assert heights == pytest.approx([1.0, 0.0, 0.5])
    assert [text.get_text() for text in axes.texts] == ["b", "a", "c"]  # by height
