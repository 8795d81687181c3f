"""Costs by counting, against the formulas."""

from __future__ import annotations

import pytest
import timm
import torch

import kat
from kat.analysis import count


@pytest.mark.parametrize("degree", [(5, 4), (3, 2), (1, 0)])
def test_a_layer_costs_what_the_paper_says(degree):
    """(2m + 2n + 3) d_in for the rational and 2 d_in d_out for the matrix, of one token."""
    m, n = degree
    layer = kat.GRKANLinear(64, 10, degree=degree, init="tanh")

    class OneToken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x.flatten(1))

    cost = count(OneToken(), (1, 8, 8))
    assert cost.flops == (2 * m + 2 * n + 3) * 64 + 2 * 64 * 10
    assert cost.parameters == 64 * 10 + 10 + (m + 1 + n * 8)


def test_a_kat_costs_its_vit_and_21_for_each_element_of_a_rational():
    model, vit = (timm.create_model(f"{f}_tiny_patch16_224") for f in ("kat", "vit"))
    extra = 12 * 197 * (192 + 768) * 21
    assert count(model, (3, 224, 224)).flops - count(vit, (3, 224, 224)).flops == extra


def test_counting_leaves_the_model_where_it_is():
    model = timm.create_model("kat_micro")
    count(model, (3, 32, 32))
    assert model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}
