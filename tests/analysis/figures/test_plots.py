"""Figures: written whole, and of what they say."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from kat.analysis import plot_fit, plot_learning_curves
from kat.nn.fitting import fit

ROWS = [
    {"epoch": e, "train_loss": 2.0 / e, "val_loss": 1.5 / e, "top1": 10.0 * e, "top5": 50.0}
    for e in (1, 2, 3)
]


def test_learning_curves(tmp_path):
    path = tmp_path / "new" / "curves.png"
    plot_learning_curves({"a": [ROWS], "b": [ROWS[:2]]}, path)
    assert Image.open(path).size == (1500, 600)
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_learning_curves_of_several_runs_are_their_mean_in_their_range(tmp_path, figures):
    other = [{**row, "top1": row["top1"] + 6.0} for row in ROWS[:2]]
    plot_learning_curves({"a": [ROWS, other], "b": [ROWS]}, tmp_path / "c.svg", ["top1"])
    (axes,) = figures[0].axes
    assert [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())] == [
        [13.0, 23.0],
        [10.0, 20.0, 30.0],
    ]
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(1, 10), (2, 20), (2, 26), (1, 16)}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a (2 runs)", "b"]


def test_more_curves_than_usual_colours_are_told_apart(tmp_path, figures):
    plot_learning_curves({f"run {n}": [ROWS] for n in range(14)}, tmp_path / "c.svg", ["top1"])
    handles = figures[0].axes[0].get_legend().legend_handles
    assert len({to_rgba(handle.get_color()) for handle in handles}) == 14


def test_plot_of_a_fit_shows_the_error_and_twice_the_interval(tmp_path, figures):
    result = fit("gelu", (3, 2), "A", (-2.0, 4.0))
    plot_fit(result, "gelu", tmp_path / "fit.png")
    upper, lower = figures[0].axes
    x, error = lower.lines[0].get_data()
    assert (x[0], x[-1]) == (-5.0, 7.0)
    inside = (x >= -2) & (x <= 4)
    assert np.abs(error[inside]).max() == pytest.approx(result.max_error, rel=1e-2)
    assert np.abs(error[~inside]).max() > 2 * result.max_error
    function, fitted = upper.lines
    np.testing.assert_allclose(fitted.get_ydata() - function.get_ydata(), error, atol=1e-12)
    assert [line.get_label() for line in upper.lines] == ["gelu", "F, form A, degree (3, 2)"]
