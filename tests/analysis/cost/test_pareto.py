"""Accuracy against cost: the points and the front."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kat.analysis.ablation import Estimate, summarize
from kat.analysis.cost.pareto import CostPoint, cost_points, pareto_front
from kat.errors import InputError


def _point(label, top1, parameters, half_width=math.nan):
    costs = {"parameters": parameters, "seconds": 60.0 + parameters}
    return CostPoint(label, Estimate(top1, half_width, 1), costs)


def test_points_are_the_cells_that_have_a_result():
    row = {"status": "done", "parameters": 10, "flops": 200, "memory_bytes": None}
    rows = [
        {**row, "cell": "a", "seed": 0, "top1": 80.0, "seconds": 50.0},
        {**row, "cell": "a", "seed": 1, "top1": 84.0, "seconds": 70.0},
        {"cell": "b", "seed": 0, "status": "diverged", "top1": None},
    ]
    (point,) = cost_points(summarize(rows))
    assert (point.label, point.metric) == ("a", Estimate.of([80.0, 84.0]))
    assert point.costs == {"parameters": 10, "flops": 200, "seconds": 60.0}
    with pytest.raises(InputError, match="'a' has no memory; it has parameters, flops, seconds"):
        point.cost("memory")


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    points = [_point(str(n), *rng.integers(0, 12, 2)) for n in range(60)]
    front = pareto_front(points, "parameters")
    places = [(p.metric.mean, p.costs["parameters"]) for p in points]

    def is_beaten(top1, cost):
        return any(t >= top1 and c <= cost and (t, c) != (top1, cost) for t, c in places)

    assert [(p.metric.mean, p.costs["parameters"]) for p in front] == sorted(
        {place for place in places if not is_beaten(*place)}
    )
