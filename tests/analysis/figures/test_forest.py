"""All comparisons of several grids: a line each, with the interval of the paired difference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kat.analysis.ablation import summarize
from kat.analysis.figures.grids import draw_forest
from kat.analysis.runs import METRICS
from tests.analysis.report_pages import TOP1, grid_rows

ALIKE = {"8 $\\frac$": [84.0, 85.0], "1": [84.5, 84.7], "failed": [80.0, 81.0]}


def axes(**grids):
    """The figure, the axes of the differences, and those of their values as text."""
    figure = draw_forest(grids, METRICS["top1"])
    (left,) = figure.axes
    (right,) = left.child_axes
    return figure, left, right


def _grids():
    rows = grid_rows(ALIKE)
    for row in rows[4:]:
        row["status"] = "failed"
    return {"models": summarize(grid_rows()), "groups": summarize(rows)}


def test_each_cell_but_the_first_has_a_line_below_its_grid():
    figure, left, right = axes(**_grids())
    names = ["models (minus KAT)", "ViT (a long name)", r"groups (minus 8 \$\frac\$)", "1"]
    assert [label.get_text() for label in left.get_yticklabels()] == names
    assert left.get_ylim() == (3.5, -0.5)  # the first on top
    paired = stats.ttest_rel(TOP1["ViT (a long name)"], TOP1["KAT"]).confidence_interval(0.95)
    drawn = [bars.get_segments()[0] for bars in left.collections]
    assert [segment[0, 1] for segment in drawn] == [1, 3]
    assert list(drawn[0][:, 0]) == pytest.approx([paired.low, paired.high])
    texts = ["", f"-2.90 ± {(paired.high - paired.low) / 2:.2f}", ""]
    assert [label.get_text() for label in right.get_yticklabels()][:3] == texts
    certain, uncertain = (bars.get_color()[0][:3] for bars in left.collections)
    assert np.ptp(uncertain) == 0 < np.ptp(certain)  # gray where the difference may be none
    figure.draw_without_rendering()
    assert right.get_ylim() == left.get_ylim()


@pytest.mark.filterwarnings("error")
def test_ties_do_not_shrink_the_axis():
    values = {"first": [84.0], "a": [84.0], "b": [84.0], "c": [84.0], "d": [86.5], "e": [82.0]}
    _, left, _ = axes(one=summarize(grid_rows(values)))
    low, high = left.get_xlim()
    assert low < -2
    assert high > 2.5
    _, left, _ = axes(one=summarize(grid_rows(dict(list(values.items())[:3]))))
    assert left.get_xlim()[0] < 0 < left.get_xlim()[1]


def test_one_seed_has_no_interval():
    rows = grid_rows({"KAT": [84.0], "ViT": [81.0]})
    figure, left, right = axes(models=summarize(rows))
    assert figure.get_suptitle().endswith("one seed, no intervals")
    assert not left.collections
    assert right.get_yticklabels()[1].get_text() == "-3.00"


def test_a_difference_far_beyond_the_others_is_an_arrow_at_the_edge():
    cells = {"KAT": [84.0], "a": [83.0], "b": [85.0], "c": [83.5], "broken": [20.0]}
    _, left, right = axes(models=summarize(grid_rows(cells)))
    low, high = left.get_xlim()
    assert -3 < low < -1 < 1 < high < 3
    (arrow,) = [line for line in left.lines if line.get_marker() == "<"]
    assert arrow.get_ydata().tolist() == [4]
    assert low < arrow.get_xdata()[0] < -1
    assert right.get_yticklabels()[4].get_text() == "-64.00"
