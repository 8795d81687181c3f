"""The change of a model's output: measured on a batch, and warned of from the error of a fit."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import kat
from kat.errors import InputError


def _model(activation):
    torch.manual_seed(0)
    layers = [nn.Linear(16, 64), activation(), nn.Linear(64, 16), nn.LayerNorm(16)]
    return nn.Sequential(*layers, nn.Linear(16, 64), activation(), nn.Linear(64, 4))


def test_relu_warns_and_the_plan_measures_what_it_changes():
    model, x = _model(nn.ReLU), 3 * torch.randn(50, 16)
    before, expected, original = model(x), model[:3](x), copy.deepcopy(model)
    with pytest.warns(UserWarning, match="fit to relu in 1 is off by .* 2 of 2 fits"):
        plan = kat.kanify(model, measure=x)
    after = model(x)
    change = ((after - before).norm() / before.norm()).item()
    assert plan.change.of_all == pytest.approx(change, rel=1e-4)
    assert change > 0.01
    assert list(plan.change.of_each) == ["1", "5"]
    with pytest.warns(UserWarning, match="1 of 1 fits"):
        one = kat.kanify(original, only=0)
    first = original[2](original[1](original[0](x)))
    alone = ((first - expected).norm() / expected.norm()).item()
    assert plan.change.of_each["1"] == pytest.approx(alone, rel=1e-4)
    assert plan.change.of_each["5"] == pytest.approx(change, rel=1e-4)
    with pytest.raises(InputError, match="before it is in place"):
        one.measure(x)
    lines = str(plan).splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == [
        f"{value:.1e}" for value in plan.change.of_each.values()
    ]
    assert f"the model's output moves by {100 * change:.2g} %" in lines


def test_gelu_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kat.kanify(_model(nn.GELU))
