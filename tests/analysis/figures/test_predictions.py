"""Figures of a classifier's predictions."""

from __future__ import annotations

import numpy as np
import torch

from kat.analysis.figures.predictions import (
    block_maxima,
    draw_photographs,
)


def test_no_confusion_vanishes_in_the_figure_of_many_classes():
    shares = np.zeros((999, 999))
    shares[998, 501] = 0.7
    pooled = block_maxima(shares, 4)
    assert pooled.shape == (250, 250)
    assert np.argwhere(pooled).tolist() == [[249, 125]]


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
