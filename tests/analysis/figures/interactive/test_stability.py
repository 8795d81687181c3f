"""Gains by layer and step."""

from __future__ import annotations

import numpy as np

from kat.analysis.figures.interactive.stability import gains


def test_gains_are_drawn_by_powers_of_two():
    figure = gains([0, 5], ["a", "b"], np.array([[1.0, 8.0], [0.25, np.nan]]))
    (drawn,) = figure.data
    assert drawn.z == ([0.0, 3.0], [-2.0, None])
    assert drawn.customdata[1] == [0.25, None]
