"""Figures of activations: lines are the functions, frames the steps; readable with many groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from kat.analysis import learned_activations, plot_activations, plot_evolution
from kat.nn import LayerHistory


@pytest.fixture
def history():
    """Two layers of two groups, whose slope is the step plus the group."""
    steps = torch.arange(0, 90, 10)
    numerator = torch.zeros(9, 2, 2)
    numerator[:, :, 1] = steps[:, None] + torch.arange(2)
    layer = LayerHistory("A", steps, numerator, torch.zeros(9, 2, 1))
    return {"first": layer, "second": layer}


def test_lines_are_the_functions_over_the_inputs(tmp_path, figures):
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, depth=3).eval()
    activations = learned_activations(model, [torch.randn(2, 1, 8, 8)])
    plot_activations(activations, tmp_path / "x.png")
    panels = [axes for axes in figures[0].axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == [a.name for a in activations]
    for axes, activation in zip(panels, activations, strict=True):
        *groups, start = axes.lines
        for line, y in zip(groups, activation.learned, strict=True):
            np.testing.assert_array_equal(line.get_data(), (activation.x, y))
        np.testing.assert_array_equal(start.get_ydata(), activation.start[0])
    behind = [axes for axes in figures[0].axes if axes.patches]
    assert len(behind) == 6
    values, edges, _ = behind[4].patches[0].get_data()
    np.testing.assert_allclose(values, activations[4].histogram.mean(0))
    np.testing.assert_array_equal(edges, activations[4].edges)


def test_of_many_groups_some_are_drawn_and_the_title_says_so(tmp_path, figures):
    args = {"in_chans": 1, "num_groups": 64, "share": "none"}
    model = timm.create_model("kat_micro_patch2_8", **args).eval()
    plot_activations(learned_activations(model), tmp_path / "x.png")
    (axes, *_), (band,) = figures[0].axes, figures[0].axes[0].collections
    assert len(axes.lines) == 8 + 1
    assert [text.get_text() for text in axes.texts][::7] == ["0", "63"]
    assert len(band.get_paths()[0].vertices) > 400  # the range of all, along x and back
    assert "8 of 64" in figures[0].get_suptitle()


def test_small_multiples_show_steps_from_the_start_to_the_end(tmp_path, figures, history):
    plot_evolution(history, tmp_path / "x.svg", width=2)
    axes = figures[0].axes
    assert [a.get_xlabel() for a in axes[4:]] == [f"step {s}" for s in (0, 30, 50, 80)]
    assert [a.get_title(loc="left") for a in axes[::4]] == list(history)
    for place, step in enumerate((0, 30, 50, 80)):
        first, second, *starts = axes[4 + place].lines
        assert (first.get_xdata()[-1], first.get_ydata()[-1]) == (2, 2 * step)
        assert second.get_ydata()[-1] == 2 * (step + 1)
        assert sorted(start.get_ydata()[-1] for start in starts) == [0, 2]  # one for each group


@pytest.mark.slow
def test_an_animation_has_a_frame_a_step_and_moves(tmp_path, history):
    path = tmp_path / "evolution.gif"
    plot_evolution(history, path)
    with Image.open(path) as image:
        assert image.n_frames == 9  # equal ones at the end are joined
        frames = []
        for place in (0, 4, 8):
            image.seek(place)
            panels = image.convert("L").crop((0, image.height // 4, *image.size))
            frames.append(np.asarray(panels).astype(int))
    changed = [(np.abs(a - b) > 50).sum() for a, b in itertools.pairwise(frames)]
    assert min(changed) > 100
    first = path.read_bytes()
    plot_evolution(history, path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
