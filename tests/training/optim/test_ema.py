"""The moving average of the weights: its rate, what it averages, and how it is swapped in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kat.training.optim.ema import EMA
from tests.equality import assert_equal


def test_ema_of_the_weights_warms_up_to_its_decay():
    """d = min(decay, (1 + t) / (10 + t)) with t steps taken."""
    model = nn.Linear(1, 1, bias=False)
    for steps, kept in ((0, 0.1), (8, 0.5), (10_000, 0.9)):
        nn.init.ones_(model.weight)
        ema = EMA(model, 0.9)
        ema.steps = steps
        nn.init.zeros_(model.weight)
        ema.update()
        assert ema.values["weight"].item() == pytest.approx(kept)
        with ema.swapped():
            assert model.weight.item() == pytest.approx(kept)
        assert (model.weight.item(), ema.steps) == (0, steps + 1)


def test_statistics_are_averaged_and_counts_are_copied():
    norm = nn.BatchNorm1d(2)
    ema = EMA(norm, 0.9)
    norm.running_mean.fill_(1.0)
    norm.num_batches_tracked.fill_(7)
    ema.update()
    assert ema.values["running_mean"].tolist() == pytest.approx([0.9, 0.9])
    assert ema.values["num_batches_tracked"].item() == 7


def test_infinite_buffers_are_copied():
    model = nn.Linear(1, 1)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    ema = EMA(model, 0.9)
    for _ in range(2):
        ema.update()
    assert torch.equal(ema.values["mask"], model.mask)


def test_tied_tensors_have_an_average_by_each_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    ema = EMA(model, 0.9)
    nn.init.ones_(model[0].weight)
    ema.update()
    found = ema.by_every_name()
    assert set(found) == set(model.state_dict())
    assert found["1.weight"] is found["0.weight"] is ema.values["0.weight"]
    assert not torch.equal(found["1.weight"], model[1].weight)


def test_a_state_is_restored():
    model = nn.Linear(3, 2)
    before = EMA(model, 0.9)
    nn.init.ones_(model.weight)
    before.update()
    after = EMA(model, 0.9)
    after.load({name: value.clone() for name, value in before.values.items()}, before.steps)
    assert (after.steps, after.rate()) == (before.steps, before.rate())
    assert_equal(after.values, before.values)
