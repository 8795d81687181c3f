"""Costs of cells, and the menu that chooses one."""

from __future__ import annotations

import numpy as np
import pytest

from kat.analysis.ablation import summarize
from kat.analysis.cost.pareto import cost_points
from kat.analysis.figures.interactive.costs import costs
from kat.analysis.learning_curves import METRICS
from tests.analysis import report_pages as pages


def test_costs_change_with_the_menu():
    figure = costs(cost_points(summarize(pages.grid_rows())), METRICS["top1"])
    assert figure.layout.yaxis.title.text == "validation top-1 (%)"
    kat, vit, front = figure.data
    assert (kat.x, vit.x) == ((4000,), (18000,))
    assert kat.y[0] == pytest.approx(np.mean(pages.TOP1["KAT"]))
    assert front.x == (4000,)
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["parameters", "flops", "seconds", "memory"]
    places, axis = buttons[2].args
    assert places["x"] == [[61.0], [61.0], [61.0]]
    assert axis["xaxis.title.text"] == "seconds of a training run"
