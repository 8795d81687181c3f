"""The figure of a fit: its error, over twice the interval."""

from __future__ import annotations

import numpy as np
import pytest

from kat.analysis import plot_fit
from kat.nn.fitting import fit


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
    assert (function.get_label(), "degree (3, 2)" in fitted.get_label()) == ("gelu", True)
