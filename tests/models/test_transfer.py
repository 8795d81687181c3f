"""The functions of one model in another."""

from __future__ import annotations

import pytest
import torch

import kat
from kat.errors import InputError
from kat.nn.rational import rationals


def _kat(**args):
    return kat.models.create_model("kat_micro", in_chans=1, num_classes=3, **{"depth": 2, **args})


def _learned():
    model = _kat()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_functions_go_to_a_wider_model_whose_weights_fit_them():
    source, target = _learned(), _kat(embed_dim=128)
    before = target.blocks[0].mlp.fc2.weight.std().item()
    kat.transfer_functions(source, target)
    for name, act in rationals(target).items():
        assert all(map(torch.equal, act.parameters(), rationals(source)[name].parameters()))
        assert not any(p.requires_grad for p in act.parameters())
    mlp = target.blocks[0].mlp
    moment = mlp.act2(torch.randn(10_000, 512)).square().mean().item()
    expected = (1 / (512 * moment)) ** 0.5
    assert mlp.fc2.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert before != pytest.approx(expected, rel=0.03)
    kat.transfer_functions(source, target, freeze=False)
    assert mlp.act2.weight_numerator.requires_grad


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_groups": 4}, "blocks.0.mlp.act1 of the source .*num_groups=8.*num_groups=4"),
        ({"degree": (3, 2)}, r"degree=\(3, 2\)"),
        ({"depth": 4, "first_init": "none"}, "act1 with .* act2 with"),
        ({"depth": 3}, "source 4, .* target 6"),
    ],
)
def test_functions_that_do_not_fit_change_nothing(args, message):
    target = _kat(**args)
    before = [p.clone() for p in target.parameters()]
    with pytest.raises(InputError, match=message):
        kat.transfer_functions(_learned(), target)
    assert all(map(torch.equal, before, target.parameters()))
    with pytest.raises(InputError, match="source 0"):
        kat.transfer_functions(torch.nn.ReLU(), torch.nn.ReLU())
