"""Figures: written whole, and of what they say."""

from __future__ import annotations

import numpy as np
import pytest
import timm
from PIL import Image

from kat.analysis import plot_activations, plot_fit, plot_learning_curves, plots
from kat.nn.fitting import fit

ROWS = [
    {"epoch": e, "train_loss": 2.0 / e, "val_loss": 1.5 / e, "top1": 10.0 * e, "top5": 50.0}
    for e in (1, 2, 3)
]


def test_learning_curves(tmp_path):
    path = tmp_path / "new" / "curves.png"
    plot_learning_curves({"a": ROWS, "b": ROWS[:2]}, path)
    assert Image.open(path).size == (1500, 600)
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_activations_have_a_panel_for_every_rational(tmp_path, suffix):
    path = tmp_path / f"activations.{suffix}"
    plot_activations(timm.create_model("kat_micro"), path)
    if suffix == "svg":
        text = path.read_text()
        for block in range(4):
            for act in (1, 2):
                assert f"blocks.{block}.mlp.act{act}" in text
    assert path.stat().st_size > 10_000


def test_a_model_without_rationals_has_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no GroupRational layer"):
        plot_activations(timm.create_model("vit_micro"), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_plot_of_a_fit_shows_the_error_and_twice_the_interval(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
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
