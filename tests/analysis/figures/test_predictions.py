"""Figures of a classifier's predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kat.analysis.figures.predictions import (
    block_maxima,
    draw_confusion,
    draw_photographs,
    draw_reliability,
)
from kat.training.tasks.classification.metrics import calibration


def test_no_confusion_vanishes_in_the_figure_of_many_classes():
    shares = np.zeros((999, 999))
    shares[998, 501] = 0.7
    pooled = block_maxima(shares, 4)
    assert pooled.shape == (250, 250)
    assert np.argwhere(pooled).tolist() == [[249, 125]]


def test_the_color_of_the_confusion_matrix_grows_with_the_share_from_the_color_of_the_page():
    figure = draw_confusion(np.array([[20, 0], [1, 19]]), ["a", "b"])
    (image,) = figure.axes[0].images
    alpha = image.to_rgba(image.get_array())[..., 3]
    assert alpha[0, 1] == 0
    assert alpha[1, 0] / alpha[0, 0] == pytest.approx(0.05, abs=0.01)


def test_markers_at_the_ends_of_the_reliability_diagram_are_drawn_whole():
    confidence = np.array([0.0, 0.01, 0.999, 1.0])
    figure = draw_reliability(calibration(confidence, np.array([False, False, True, True])))
    figure.draw_without_rendering()
    upper = figure.axes[0]
    markers = upper.lines[0]
    half = figure.dpi / 72 * markers.get_markersize() / 2
    places = upper.transData.transform(markers.get_xydata()[[0, -1]])
    box = upper.get_window_extent()
    assert places[0].min() > 0
    assert (places - half > [box.x0, box.y0]).all()
    assert (places + half < [box.x1, box.y1]).all()


def test_photographs_have_a_panel_each_and_their_whole_titles():
    pictures = torch.zeros(8, 3, 10, 12, dtype=torch.uint8)
    titles = [f"wrong: {'long ' * 20}$x$ ({n} %)\ntrue: y" for n in range(8)]
    figure = draw_photographs(pictures, titles)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert len(figure.axes) == 9
    for axes, title in zip(drawn, titles, strict=True):
        *first, last = axes.get_title(loc="left").split("\n")
        assert " ".join(first) == title.split("\n")[0].replace("$", r"\$")
        assert max(map(len, first)) <= 26
        assert last == "true: y"
