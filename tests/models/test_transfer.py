"""The functions of one model in another."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import kat
from kat.errors import InputError
from kat.nn.rational import rationals

ROWS = Path(__file__).parents[2] / "benchmarks" / "results" / "domains" / "step.csv"


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


def _sources():
    """By donor, the second function of each block, as its row has it."""
    csv.field_size_limit(1 << 20)
    with ROWS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "donor"]
    found = {row["seed"]: row["functions"] for row in rows if row["task"] == "python3-doc"}
    return [[block["act2"] for block in json.loads(found[str(seed)])] for seed in range(161, 167)]


@pytest.mark.parametrize(("layer", "blocks"), [(0, slice(0, 1)), (3, slice(1, 6))])
def test_the_functions_that_ship_are_the_means_of_the_six_sources(layer, blocks):
    mlps = torch.nn.ModuleList(kat.GRKANMlp(32, 96, first_init="none") for _ in range(6))
    kat.transfer_functions("language", mlps)
    x = torch.linspace(-8, 8, 401).double()
    x = (x[1:] + x[:-1]) / 2
    curves, density = [], 0
    for source in _sources():
        for own in source[blocks]:
            density = density + torch.tensor(own["density"], dtype=torch.float64)
            for b in torch.tensor(own["denominator"], dtype=torch.float64):
                (a,) = torch.tensor(own["numerator"], dtype=torch.float64)
                q = 1 + sum(b[k - 1].abs() * x.abs() ** k for k in range(1, 5))
                curves.append(sum(a[k] * x**k for k in range(6)) / q)
    mean = torch.stack(curves).mean(0)
    act = mlps[layer].act2.double()
    error = (act(x[:, None].repeat(1, 96))[:, 5] - mean).square()
    relative = (error @ density / (mean.square() @ density)).sqrt()
    assert relative < 0.02
    assert not act.weight_numerator.requires_grad


def test_the_functions_that_ship_are_for_mlps_without_the_first_function():
    with pytest.raises(InputError, match=r"act2 with .* blocks\.0\.mlp\.act1"):
        kat.transfer_functions("language", _kat())
