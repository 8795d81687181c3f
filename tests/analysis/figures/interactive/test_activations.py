"""Learned rationals, against P / Q by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from kat.analysis import learned_activations
from kat.analysis.figures.interactive.activations import activation, drawn_groups, evolution
from kat.analysis.figures.interactive.base import SERIES
from kat.nn import GroupRational
from tests.analysis import report_pages as pages


def test_activations_are_p_over_q_from_start_to_end():
    model = pages.small_kat()
    layer = next(m for m in model.modules() if isinstance(m, GroupRational))
    drawn = activation(learned_activations(model)[0])
    *groups, start = drawn.data
    assert len(groups) == layer.num_groups
    x = np.array(groups[5].x)
    assert np.array(groups[5].y) == pytest.approx(pages.by_numpy(layer, x, 5), abs=1e-4)
    assert np.array(start.y) == pytest.approx(x, abs=1e-3)  # act1 starts as the identity
    assert start.line.dash == "dash"


def test_the_density_behind_adds_up_to_the_inputs_that_are_shown():
    run = pages.findings(pages.small_kat())
    bars = activation(run.activations[1]).data[0]
    share = np.dot(bars.width, bars.y)
    assert share == pytest.approx(1 - run.activations[1].outside, abs=1e-4)


def test_evolution_has_a_frame_a_step_and_a_menu_of_layers():
    model = pages.small_kat()
    history = pages.coefficient_history(model)
    points = {name: np.linspace(-3, 3, 401) for name in history}
    figure = evolution(history, points)
    assert [frame.name for frame in figure.frames] == ["0", "5", "10"]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "5", "10"]
    layers = [m for m in model.modules() if isinstance(m, GroupRational)]
    groups = layers[0].num_groups
    frame = figure.frames[1]
    assert len(frame.data) == 2 * groups
    assert groups not in frame.traces  # the start does not move
    x = np.array(figure.data[0].x)
    second = frame.data[groups + 2]
    assert np.array(second.y) == pytest.approx(pages.by_numpy(layers[1], x, 2, share=0.5), abs=1e-4)
    assert figure.data[frame.traces[groups + 2]].line.color == SERIES[2]
    shown = figure.layout.updatemenus[0].buttons[1].args[0]["visible"]
    assert shown == [False] * (groups + 1) + [True] * (groups + 1)


def test_many_groups_and_steps_are_thinned():
    assert drawn_groups(256)[::15] == [0, 255]
    assert drawn_groups(8) == list(range(8))
