"""Figures of a classifier's predictions."""

from __future__ import annotations

import numpy as np

from kat.analysis.figures.predictions import block_maxima


def test_no_confusion_vanishes_in_the_figure_of_many_classes():
    shares = np.zeros((999, 999))
    shares[998, 501] = 0.7
    pooled = block_maxima(shares, 4)
    assert pooled.shape == (250, 250)
    assert np.argwhere(pooled).tolist() == [[249, 125]]
