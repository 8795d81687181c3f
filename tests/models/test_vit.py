"""The baselines: ViTs that differ from KAT in their MLPs only, and these MLPs."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import Mlp
from torch import nn
from torch.nn import functional

from kat.errors import InputError
from kat.models import FixedMlp, SwiGLUMlp, create_model, rational_parameter_names
from kat.nn import GRKANMlp
from tests.equality import assert_equal


def _names(model):
    return {n: tuple(p.shape) for n, p in model.named_parameters() if ".mlp." not in n}


@pytest.mark.parametrize("family", ["kat_glu", "vit", "vit_swiglu", "vit_kan"])
def test_all_parameters_outside_the_mlps_are_kats(family):
    model = timm.create_model(f"{family}_micro_patch7_28")
    assert _names(model) == _names(timm.create_model("kat_micro_patch7_28"))
    assert model(torch.randn(2, 3, 28, 28)).shape == (2, 10)
    model(torch.randn(2, 3, 28, 28)).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_full_sizes(size):
    vit = timm.create_model(f"vit_{size}_patch16_224", device="meta")
    counts = {
        family: sum(
            p.numel()
            for p in timm.create_model(f"{family}_{size}_patch16_224", device="meta").parameters()
        )
        for family in ("vit_mlp", "vit_swiglu", "kat_glu", "vit_kan")
    }
    own = sum(p.numel() for p in vit.parameters())
    assert counts["vit_mlp"] == own
    assert counts["vit_swiglu"] == pytest.approx(own, rel=2e-3)
    assert counts["kat_glu"] == pytest.approx(own, rel=2e-3)
    mlps = 12 * 2 * 4 * vit.embed_dim**2
    assert counts["vit_kan"] == own + 8 * mlps  # grid + order more for each edge


def test_the_plain_vit_has_timms_initial_weights():
    torch.manual_seed(0)
    ours = timm.create_model("vit_mlp_tiny_patch16_224", depth=2)
    torch.manual_seed(0)
    timms = timm.create_model("vit_tiny_patch16_224", depth=2)
    assert_equal(ours.state_dict(), timms.state_dict())


def test_swiglu_and_the_gated_kat_can_start_with_the_same_weights():
    """With its rationals frozen at SiLU, the gated KAT is then the same model."""
    models = []
    for name in ("vit_swiglu_micro", "kat_glu_micro"):
        torch.manual_seed(0)
        args = {"mlp_init": "variance_preserving", "attn_init": "mimetic"}
        models.append(timm.create_model(name, mlp_ratio=3.75, **args))  # both 160 wide
    swiglu, gated = (model.state_dict() for model in models)
    for name in rational_parameter_names(models[1]):
        del gated[name]
    # Not exactly equal: the gated KAT computes its gain from a rational fitted to SiLU.
    torch.testing.assert_close(swiglu, gated, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("first_init", ["identity", "none"])
def test_a_single_block_may_have_the_grkan_mlp(first_init):
    args = {"grkan_blocks": [2], "first_init": first_init, "drop_path_rate": 0.1}
    model = timm.create_model("kat_micro_patch7_28", **args)
    assert [type(block.mlp) for block in model.blocks] == [FixedMlp, FixedMlp, GRKANMlp, FixedMlp]
    plain = model.blocks[0].mlp
    assert isinstance(plain.act, torch.nn.GELU)
    assert plain.fc2.weight.std().item() == pytest.approx((2.3526 / 256) ** 0.5, rel=0.03)
    model(torch.randn(2, 3, 28, 28)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("family", ["kat", "kat_glu", "vit", "vit_swiglu", "vit_kan"])
def test_the_mlps_can_go_without_norm(family):
    torch.manual_seed(0)
    model = timm.create_model(f"{family}_micro_patch7_28", mlp_norm=False).eval()
    assert not any("norm2" in name for name in model.state_dict())
    x = torch.randn(2, 16, 64)
    block = model.blocks[1]
    h = x + block.attn(block.norm1(x))
    assert torch.allclose(block(x), h + block.mlp(h), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("vit_micro", {"attn_init": "mimetik"}, "attn_init must be one of"),
        ("vit_swiglu_micro", {"mlp_init": "xavier"}, "scheme must be one of"),
        ("vit_kan_micro", {"mlp_init": "kaiming"}, "mlp_init is for timm's MLP"),
        ("kat_micro", {"num_groups": 7}, "is not divisible by num_groups=7"),
        ("kat_micro", {"act_layer": "gelu"}, "give act_init, not act_layer"),
        ("kat_micro", {"grkan_blocks": [4]}, r"grkan_blocks must be of 0 to 3, got \[4\]"),
    ],
)
def test_invalid_arguments_are_named(name, args, says):
    with pytest.raises(InputError, match=says):
        create_model(name, **args)


def test_the_fixed_mlp_is_timms_with_other_weights():
    torch.manual_seed(0)
    layer = FixedMlp(192, 768, act_layer=nn.SiLU)
    x = torch.randn(4, 192)
    timms = Mlp(192, 768, act_layer=nn.SiLU)
    timms.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), timms(x))
    assert layer.fc1.weight.std().item() == pytest.approx((1 / 192) ** 0.5, rel=0.02)
    assert layer.fc2.weight.std().item() == pytest.approx((2.8108 / 768) ** 0.5, rel=0.02)


def test_swiglu_is_its_formula():
    layer = SwiGLUMlp(6, 12)
    x = torch.randn(3, 6)
    gate, value = functional.linear(x, layer.fc1_g.weight, layer.fc1_g.bias), layer.fc1_x(x)
    assert torch.allclose(layer(x), layer.fc2(gate / (1 + torch.exp(-gate)) * value), atol=1e-6)
    assert layer.fc2.in_features == 8
