"""What the charts of the pages draw, against numbers from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kat.analysis import learned_activations
from kat.analysis.ablation import summarize
from kat.analysis.cost.runs import cost_points
from kat.analysis.figures import charts
from kat.nn import GroupRational
from tests.analysis import report_pages as pages


def test_means_have_intervals_and_every_run():
    runs, means = charts.means(summarize(pages.grid_rows())).data
    assert list(runs.x) == [value for values in pages.TOP1.values() for value in values]
    assert runs.text[1] == "seed 1"
    assert list(means.y) == list(pages.TOP1)
    for place, values in enumerate(pages.TOP1.values()):
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        half = means.error_x.array[place]
        assert (means.x[place] - half, means.x[place] + half) == pytest.approx((low, high))


def test_differences_leave_the_reference_out():
    (drawn,) = charts.differences(summarize(pages.grid_rows())).data
    paired = stats.ttest_rel(*reversed(pages.TOP1.values())).confidence_interval(0.95)
    assert list(drawn.y) == ["ViT (a long name)"]
    assert drawn.x[0] - drawn.error_x.array[0] == pytest.approx(paired.low)


def test_cells_named_after_numbers_are_a_row_each():
    rows = [{**pages.grid_rows()[0], "cell": name} for name in ("8", "1", "one a channel")]
    for draw in (charts.means, charts.differences):
        axis = draw(summarize(rows)).layout.yaxis
        assert (axis.type, axis.categoryarray) == ("category", ("8", "1", "one a channel"))


def test_curves_are_means_in_the_range_of_the_runs():
    runs = {"KAT": [pages.history(80.0), pages.history(84.0)], "ViT": [pages.history(70.0)]}
    shaded, kat, vit = charts.curves(runs, "top1").data
    assert (kat.x, kat.y) == ((1, 2), (72.0, 82.0))
    assert (shaded.x, shaded.y) == ((1, 2, 2, 1), (74.0, 84.0, 80.0, 70.0))
    assert kat.line.color == shaded.fillcolor[:7] != vit.line.color
    dotted, plain = charts.curves({"ViT": runs["ViT"]}, "val_loss", dotted="train_loss").data
    assert (dotted.line.dash, dotted.y, plain.y) == ("dot", (2.0, 1.0), (1.5, 0.5))


def test_costs_change_with_the_menu():
    figure = charts.costs(cost_points(summarize(pages.grid_rows())), "top1")
    kat, vit, front = figure.data
    assert (kat.x, vit.x) == ((4000,), (18000,))
    assert kat.y[0] == pytest.approx(np.mean(pages.TOP1["KAT"]))
    assert front.x == (4000,)
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["parameters", "flops", "seconds", "memory"]
    places, axis = buttons[2].args
    assert places["x"] == [[61.0], [61.0], [61.0]]
    assert axis["xaxis.title.text"] == "seconds of a training run"


def test_activations_are_p_over_q_from_start_to_end():
    model = pages.small_kat()
    layer = next(m for m in model.modules() if isinstance(m, GroupRational))
    drawn = charts.activation(learned_activations(model)[0])
    *groups, start = drawn.data
    assert len(groups) == layer.num_groups
    x = np.array(groups[5].x)
    assert np.array(groups[5].y) == pytest.approx(pages.by_numpy(layer, x, 5), abs=1e-4)
    assert np.array(start.y) == pytest.approx(x, abs=1e-3)  # act1 starts as the identity
    assert start.line.dash == "dash"


def test_the_density_behind_adds_up_to_the_inputs_that_are_shown():
    run = pages.findings(pages.small_kat())
    bars = charts.activation(run.activations[1]).data[0]
    share = np.dot(bars.width, bars.y)
    assert share == pytest.approx(1 - run.activations[1].outside, abs=1e-4)


def test_evolution_has_a_frame_a_step_and_a_menu_of_layers():
    model = pages.small_kat()
    history = pages.coefficient_history(model)
    points = {name: np.linspace(-3, 3, 401) for name in history}
    figure = charts.evolution(history, points)
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
    assert figure.data[frame.traces[groups + 2]].line.color == charts.SERIES[2]
    shown = figure.layout.updatemenus[0].buttons[1].args[0]["visible"]
    assert shown == [False] * (groups + 1) + [True] * (groups + 1)


def test_many_groups_and_steps_are_thinned():
    assert charts.drawn_groups(256)[::15] == [0, 255]
    assert charts.drawn_groups(8) == list(range(8))


def test_gains_are_drawn_by_powers_of_two():
    figure = charts.gains([0, 5], ["a", "b"], np.array([[1.0, 8.0], [0.25, np.nan]]))
    (drawn,) = figure.data
    assert drawn.z == ([0.0, 3.0], [-2.0, None])
    assert drawn.customdata[1] == [0.25, None]


def test_numbers_are_short_and_finite():
    assert charts.numbers([1 / 3, float("inf"), np.float32(2)]) == [0.333333, None, 2.0]


def test_series_can_be_told_from_both_pages():
    for color in charts.SERIES:
        assert min(_contrast(color, "#ffffff"), _contrast(color, "#15181c")) >= 3.5


def _contrast(first: str, second: str) -> float:
    """As WCAG 2 has it."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
