"""Differences of several groups: a line each, with its interval."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_hex
from scipy import stats

from kat.analysis.ablation import Estimate
from kat.analysis.figures.base import MUTED
from kat.analysis.figures.grids import draw_forest


def axes(**groups):
    """The figure, its axes, and by height the texts in them."""
    estimates = {
        name: [(cell, Estimate.of(values)) for cell, values in cells.items()]
        for name, cells in groups.items()
    }
    figure = draw_forest(estimates, "points")
    (only,) = figure.axes
    return (
        figure,
        only,
        [text.get_text().replace("\n", " ") for text in sorted(only.texts, key=height)],
    )


def height(text):
    return text.get_position()[1]


def test_each_difference_has_a_line_below_the_heading_of_its_group():
    values = [-3.0, -2.8, -2.9]
    _, left, texts = axes(models={r"8 $\frac$": values}, groups={"1": [-0.5, 0.3]})
    assert left.get_ylim() == (3.5, -0.5)  # the first on top
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    drawn = [bars.get_segments()[0] for bars in left.collections]
    assert [segment[0, 1] for segment in drawn] == [1, 3]
    assert list(drawn[0][:, 0]) == pytest.approx([interval.low, interval.high])
    low, high = interval
    assert texts[:3] == ["models", rf"-2.90 ± {(high - low) / 2:.2f}  8 \$\frac\$", "groups"]
    certain, uncertain = (bars.get_color()[0][:3] for bars in left.collections)
    assert to_hex(uncertain) == MUTED != to_hex(certain)  # gray where there may be none


@pytest.mark.filterwarnings("error")
def test_ties_do_not_shrink_the_axis():
    ties = {"a": [0.0], "b": [0.0], "c": [0.0]}
    low, high = axes(one={**ties, "d": [2.5], "e": [-2.0]})[1].get_xlim()
    assert low < -2
    assert high > 2.5
    low, high = axes(one=ties)[1].get_xlim()
    assert low < 0 < high


def test_one_seed_has_no_interval_and_a_difference_far_beyond_the_others_is_an_arrow():
    cells = {"a": [-1.0], "b": [1.0], "c": [-0.5], "broken": [-64.0]}
    figure, left, texts = axes(models=cells)
    assert figure.get_suptitle().endswith("no intervals")
    assert not left.collections
    low, high = left.get_xlim()
    assert -3 < low < -1 < 1 < high < 3
    (arrow,) = [line for line in left.lines if line.get_marker() == "<"]
    assert arrow.get_ydata().tolist() == [4]
    assert low < arrow.get_xdata()[0] < -1
    assert texts[-1] == "-64.00  broken"


def test_the_largest_difference_of_a_group_is_on_top_and_long_names_are_whole():
    name = "a KAT whose name is so long that it takes two lines"
    *_, texts = axes(one={"b": [-1.0], name: [2.0], "c": [1.0]}, two={"d": [5.0]})
    assert texts == ["one", f"+2.00  {name}", "+1.00  c", "-1.00  b", "two", "+5.00  d"]
