"""Cells of a grid: intervals against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kat.analysis.ablation import summarize
from kat.analysis.figures.interactive.ablation import differences, means
from kat.analysis.learning_curves import METRICS
from tests.analysis import report_pages as pages

TOP1 = METRICS["top1"]


def test_means_have_intervals_and_every_run():
    runs, drawn = means(summarize(pages.grid_rows()), TOP1).data
    assert list(runs.x) == [value for values in pages.TOP1.values() for value in values]
    assert runs.text[1] == "seed 1"
    assert list(drawn.y) == list(pages.TOP1)
    for place, values in enumerate(pages.TOP1.values()):
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        half = drawn.error_x.array[place]
        assert (drawn.x[place] - half, drawn.x[place] + half) == pytest.approx((low, high))


def test_differences_leave_the_reference_out():
    (drawn,) = differences(summarize(pages.grid_rows()), TOP1).data
    paired = stats.ttest_rel(*reversed(pages.TOP1.values())).confidence_interval(0.95)
    assert list(drawn.y) == ["ViT (a long name)"]
    assert drawn.x[0] - drawn.error_x.array[0] == pytest.approx(paired.low)
    assert drawn.text[0] == "-2.90 ± 0.66 % (n = 3)"


def test_one_seed_has_no_interval():
    rows = [row for row in pages.grid_rows() if row["seed"] == 0]
    (drawn,) = differences(summarize(rows), TOP1).data
    assert (drawn.text, drawn.error_x.array) == (("-3.00 % (n = 1)",), (None,))


def test_cells_named_after_numbers_are_a_row_each():
    rows = [{**pages.grid_rows()[0], "cell": name} for name in ("8", "1", "one a channel")]
    for draw in (means, differences):
        axis = draw(summarize(rows), TOP1).layout.yaxis
        assert (axis.type, axis.categoryarray) == ("category", ("8", "1", "one a channel"))
