"""The layers of the arms: equal sizes, unit variance, rationals that stay frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kat
from tests.examples.domains import ARMS, size, train


def _coefficients(model: nn.Module) -> list[torch.Tensor]:
    acts = kat.nn.rationals(model).values()
    return [p.detach().clone() for act in acts for p in act.parameters()]


@pytest.mark.parametrize(("width", "hidden"), [(64, 192), (192, 576), (128, 384)])
def test_arms_have_as_many_parameters(example, width, hidden):
    layers = example("layers")
    assert layers.ARMS == ARMS
    sizes = [size(layers.mlp(arm, width, hidden)) for arm in ARMS]
    assert sizes[0] == 2 * width * hidden + hidden + width
    assert max(sizes) < 1.02 * min(sizes)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_begin_with_unit_variance_and_only_frozen_rationals_stay(example, arm, tmp_path):
    torch.manual_seed(0)
    layer = example("layers").mlp(arm, 64, 192)
    x = torch.randn(512, 64)
    assert 0.7 < layer(x).var() < 1.4
    before = _coefficients(layer)
    row = train(example, layer, x, tmp_path / "x.ckpt", steps=3)
    moved = [not torch.equal(a, b) for a, b in zip(before, _coefficients(layer), strict=True)]
    assert row["valid"] > 0
    assert len(moved) == {"grkan": 4, "frozen": 4, "gated_grkan": 2}.get(arm, 0)
    assert all(moved) if arm != "frozen" else not any(moved)
