"""Accuracy against cost: the front, the intervals, the axes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kat.analysis.ablation import Estimate
from kat.analysis.cost.pareto import CostPoint
from kat.analysis.figures import costs
from kat.analysis.figures.costs import plot_costs
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


@pytest.fixture
def figures(monkeypatch):
    drawn = []
    monkeypatch.setattr(costs, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


@pytest.mark.parametrize(("largest", "scale"), [(900.0, "linear"), (1100.0, "log")])
def test_an_axis_is_logarithmic_where_the_range_asks_for_it(tmp_path, figures, largest, scale):
    plot_costs([_point("a", 80, 100.0), _point("b", 81, largest)], ["parameters"], tmp_path / "c")
    assert figures[0].axes[0].get_xscale() == scale


def test_the_front_and_the_intervals_are_drawn(tmp_path, figures):
    points = [_point("a", 80, 100.0, 0.5), _point("b", 79, 200.0), _point("c", 82, 300.0, 0.25)]
    plot_costs(points, ["parameters", "seconds"], tmp_path / "c.svg")
    axes, seconds = figures[0].axes
    assert axes.get_ylabel() == seconds.get_ylabel() == "validation top-1 (%)"
    assert list(axes.lines[-1].get_xdata()) == [100.0, 300.0]
    assert "side by side" in seconds.get_xlabel()
    heights = [np.ptp(bars.get_segments()[0][:, 1]) for bars in axes.collections]
    assert heights == pytest.approx([1.0, 0.0, 0.5])


def test_names_are_not_mathematics(tmp_path):
    plot_costs([_point("a $\\frac$ b", 80, 100.0)], ["parameters"], tmp_path / "cost.svg")
    assert r"a $\frac$ b" in (tmp_path / "cost.svg").read_text()


def test_four_panels_are_written(tmp_path):
    path = tmp_path / "cost.svg"
    plot_costs(_crowd(3), ["parameters", "seconds"], path)
    assert "cell 2: a longer name" in path.read_text()
    with pytest.raises(InputError, match="has no flops"):
        plot_costs(_crowd(3), ["flops"], tmp_path / "none.svg")
    assert [p.name for p in tmp_path.iterdir()] == ["cost.svg"]
