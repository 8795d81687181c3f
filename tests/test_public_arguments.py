"""Arguments of the public calls that a user may mistake: one line names the argument."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import kat
from kat.errors import InputError


def _mlp():
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))


def _kanified():
    return kat.kanify(_mlp()).model


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kat.GroupRational("auto"), "num_groups must be an integer .*'auto'"),
    (lambda: kat.GroupRational(0), "num_groups must be .*got 0"),
    (lambda: kat.GroupRational(degree=5), "degree must be"),
    (lambda: kat.GRKANLinear(16, 4, num_groups="Auto"), '^num_groups, if not "auto" .*\'Auto\''),
    (lambda: kat.GRKANMlp(16, num_groups=0), "^num_groups.* got 0"),
    (lambda: kat.GatedGRKANMlp(16, num_groups=-8), "^num_groups.* got -8"),
    (lambda: kat.GRKANMlp(None), "in_features must be"),
    (lambda: kat.GRKANMlp(16, weight_init="xavier"), "weight_init .*'xavier'"),
    (lambda: kat.kanify(nn.Linear), "model must be .*Module"),
    (lambda: kat.kanify(_mlp(), only=nn.Linear(2, 2)), "only must be"),
    (lambda: kat.kanify(_mlp(), config={"groups": 4}), "config must be .*KanifyConfig"),
    (lambda: kat.kanify(_mlp(), calibration=[torch.full((8, 16), math.nan)]), "calibration: .*NaN"),
    (lambda: kat.adapt(_kanified(), "low_rank", rank=0), "rank must be"),
    (lambda: kat.param_groups(_mlp().parameters(), 0.1), "model must be .*got generator"),
    (lambda: kat.register_activations("auto"), "num_groups must be .*'auto'"),
    (lambda: kat.transfer_functions(_mlp().state_dict(), _mlp()), "source must be"),
    (lambda: kat.transfer_functions(_mlp(), "runs/digits"), "target must be .*got str"),
    (lambda: kat.evaluate("runs/digits", 5), "data must be"),
])  # fmt: skip
def test_a_mistaken_argument_is_named(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_groups_of_a_known_width_are_chosen_as_in_a_layer():
    assert kat.GroupRational("auto", num_channels=12).num_groups == 6
    assert kat.GroupRational("channels", num_channels=12).num_groups == 12
