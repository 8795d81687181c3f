"""The MLPs that GR-KAN is compared with."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Mlp
from torch import nn
from torch.nn import functional

from kat.models import FixedMlp, SwiGLUMlp
from kat.nn import GRKANMlp


def test_the_fixed_mlp_is_timms_with_other_weights():
    torch.manual_seed(0)
    layer = FixedMlp(192, 768, act_layer=nn.SiLU)
    x = torch.randn(4, 192)
    timms = Mlp(192, 768, act_layer=nn.SiLU)
    timms.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), timms(x))
    assert layer.fc1.weight.std().item() == pytest.approx((1 / 192) ** 0.5, rel=0.02)
    assert layer.fc2.weight.std().item() == pytest.approx((2.8108 / 768) ** 0.5, rel=0.02)


def test_the_centered_scheme_takes_the_mean_of_a_fixed_function_out():
    layer = FixedMlp(64, 256, act_layer=nn.GELU, weight_init="centered")
    mean = functional.gelu(torch.randn(200_000, dtype=torch.float64)).mean()
    pushed = layer.fc2.weight.double() @ torch.full((256,), mean.item(), dtype=torch.float64)
    assert pushed.abs().max() < 1e-4


@pytest.mark.parametrize(("width", "hidden"), [(64, 256), (192, 768), (768, 3072)])
def test_swiglu_has_the_parameters_of_the_mlp(width, hidden):
    swiglu, mlp = (
        sum(p.numel() for p in layer.parameters())
        for layer in (SwiGLUMlp(width, hidden, device="meta"), Mlp(width, hidden, device="meta"))
    )
    assert swiglu == pytest.approx(mlp, rel=0.01)


def test_swiglu_is_its_formula():
    layer = SwiGLUMlp(6, 12)
    x = torch.randn(3, 6)
    gate, value = functional.linear(x, layer.fc1_g.weight, layer.fc1_g.bias), layer.fc1_x(x)
    assert torch.allclose(layer(x), layer.fc2(gate / (1 + torch.exp(-gate)) * value), atol=1e-6)
    assert layer.fc2.in_features == 8


def test_without_a_first_rational_the_mlp_begins_with_its_linear_map():
    layer = GRKANMlp(16, 32, first_init="none")
    x = torch.randn(3, 16, requires_grad=True)
    assert torch.allclose(layer(x), layer.fc2(layer.act2(layer.fc1(x))), atol=1e-6)
    layer(x).sum().backward()
    assert {name for name, _ in layer.named_parameters()} == {
        "fc1.weight", "fc1.bias", "act2.weight_numerator", "act2.weight_denominator",
        "fc2.weight", "fc2.bias",
    }  # fmt: skip
    layer.reset_parameters()


def test_a_first_rational_may_start_as_any_function():
    layer = GRKANMlp(16, 32, first_init="tanh")
    x = torch.linspace(-3, 3, 50)
    y = layer.act1(x[:, None].expand(-1, 16))
    assert (y - x.tanh()[:, None]).abs().max() < 0.01
    assert layer.fc1.weight.std().item() == pytest.approx((2.5362 / 16) ** 0.5, rel=0.15)


def test_one_rational_a_channel():
    layer = GRKANMlp(6, 10, num_groups="channels", share="none")
    assert (layer.act1.num_groups, layer.act2.num_groups) == (6, 10)
    assert layer.act2.weight_numerator.shape == (10, 6)
    with torch.no_grad():
        layer.act2.weight_numerator.mul_(torch.arange(10.0)[:, None])
    x = torch.randn(4, 10)
    start = GRKANMlp(6, 10, num_groups=2).act2
    assert torch.allclose(layer.act2(x), start(x) * torch.arange(10.0), atol=1e-5)
