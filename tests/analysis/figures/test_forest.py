"""Differences of several groups: a line each, with its interval."""

from __future__ import annotations

import pytest
from scipy import stats

from kat.analysis.ablation import Estimate
from kat.analysis.figures.grids import draw_forest


def axes(**groups):
    """The figure, the axes of the differences, and those of their values as text."""
    estimates = {
        name: [(cell, Estimate.of(values)) for cell, values in cells.items()]
        for name, cells in groups.items()
    }
    figure = draw_forest(estimates, "points")
    (left,) = figure.axes
    (right,) = left.child_axes
    return figure, left, right


def test_each_difference_has_a_line_below_the_heading_of_its_group():
    values = [-3.0, -2.8, -2.9]
    _, left, right = axes(models={r"8 $\frac$": values}, groups={"1": [-0.5, 0.3]})
    names = ["", r"8 \$\frac\$", "", "1"]
    assert [label.get_text() for label in left.get_yticklabels()] == names
    assert left.get_ylim() == (3.5, -0.5)  # the first on top
    assert [(text.get_text(), text.get_position()[1]) for text in left.texts] == [
        ("models", 0), ("groups", 2)
    ]  # fmt: skip
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    drawn = [bars.get_segments()[0] for bars in left.collections]
    assert [segment[0, 1] for segment in drawn] == [1, 3]
    assert list(drawn[0][:, 0]) == pytest.approx([interval.low, interval.high])
    texts = ["", f"-2.90 ± {(interval.high - interval.low) / 2:.2f}", ""]
    assert [label.get_text() for label in right.get_yticklabels()][:3] == texts


def test_one_seed_has_no_interval_and_a_difference_far_beyond_the_others_is_an_arrow():
    cells = {"a": [-1.0], "b": [1.0], "c": [-0.5], "broken": [-64.0]}
    figure, left, right = axes(models=cells)
    assert figure.get_suptitle().endswith("no intervals")
    assert not left.collections
    low, high = left.get_xlim()
    assert -3 < low < -1 < 1 < high < 3
    (arrow,) = [line for line in left.lines if line.get_marker() == "<"]
    assert arrow.get_ydata().tolist() == [4]
    assert low < arrow.get_xdata()[0] < -1
    assert right.get_yticklabels()[4].get_text() == "-64.00"
