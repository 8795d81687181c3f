"""Functions recognized by their values."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from kat.models.kanify.activation import SUPPORTED, known_function


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu_tanh"),
        (functional.gelu, "gelu"),
        (timm.layers.QuickGELU(), "quick_gelu"),
        (timm.layers.activations.Swish(inplace=True), "silu"),
        (nn.Mish(), "mish"),
        (torch.relu, "relu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Softplus(), "softplus"),
        (nn.Flatten(), "identity"),
        (nn.LeakyReLU(0.02), None),
        (nn.ReLU6(), None),
        (nn.Hardtanh(), None),
        (nn.Softmax(-1), None),
        (nn.GLU(), None),
        (nn.RReLU(), None),
    ],
)
def test_a_function_is_known_by_its_values(activation, name):
    before = torch.get_rng_state()
    assert known_function(activation) == name
    assert name in (None, "identity", *SUPPORTED)
    assert torch.equal(torch.get_rng_state(), before)
