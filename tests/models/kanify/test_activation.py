"""Functions recognized by their values."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from kat.models.kanify.fit import KNOWN, LINEAR, activation_function
from kat.nn.functions import FUNCTIONS


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu_tanh"),
        (timm.layers.QuickGELU(), "quick_gelu"),
        (timm.layers.activations.Swish(inplace=True), "silu"),
        (torch.relu, "relu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Softplus(), "softplus"),
        (nn.Flatten(), LINEAR),
        (nn.Dropout(), LINEAR),
        (nn.LeakyReLU(0.02), "LeakyReLU"),
        (nn.ReLU6(), "ReLU6"),
        (nn.PReLU(), "PReLU"),
        (lambda x: functional.gelu(x.float()).to(x.dtype), "gelu"),
        (nn.PReLU(4), None),
        (nn.Softmax(-1), None),
        (nn.LayerNorm(4), None),
        (lambda x: x + torch.rand_like(x), None),
    ],
)
def test_a_function_is_known_by_its_values(activation, name):
    before = torch.get_rng_state()
    function = activation_function(activation)
    assert (function and function.name) == name
    assert name in KNOWN or name in (None, LINEAR) or name not in FUNCTIONS
    assert torch.equal(torch.get_rng_state(), before)


def test_learned_parameters_are_part_of_the_function():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    first, second, third = nn.PReLU(init=0.25), nn.PReLU(init=0.5), nn.PReLU(init=0.5)
    functions = [activation_function(module.bfloat16()) for module in (first, second, third)]
    torch.testing.assert_close(functions[1].function(x), torch.where(x < 0, x / 2, x))
    assert functions[0] != functions[1] == functions[2]
    assert second.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_a_mean_over_tokens_or_images_is_no_function_of_every_value(dim):
    def gate(x):
        return x * torch.sigmoid(x.mean(dim, keepdim=True))

    assert activation_function(gate) is None
