"""The gated GR-KAN MLP beside timm's gated MLPs."""

from __future__ import annotations

import inspect

import pytest
import torch
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked
from torch import nn

import kat

COEFFICIENTS = {"act.weight_numerator", "act.weight_denominator"}
LAYOUTS = [
    (SwiGLU, {}),
    (SwiGLUPacked, {"packed": True}),
    (GluMlp, {"packed": True, "gate_last": True}),
]


@pytest.mark.parametrize(("timms", "layout"), LAYOUTS)
@pytest.mark.parametrize(("name", "act"), [("swish", nn.SiLU), ("gelu", nn.GELU)])
def test_it_starts_as_timms_layer(timms, layout, name, act):
    torch.manual_seed(0)
    mlp = timms(12, 32, 20, act_layer=act)
    ours = kat.GatedGRKANMlp(12, 32, 20, act_init=name, **layout)
    missing, unexpected = ours.load_state_dict(mlp.state_dict(), strict=False)
    assert (set(missing), unexpected) == (COEFFICIENTS, [])
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), mlp(x), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("timms", "layout"), LAYOUTS)
def test_it_is_timms_layer_with_a_rational(timms, layout):
    torch.manual_seed(0)
    options = {"norm_layer": nn.LayerNorm, "bias": (False, True), "drop": (0.3, 0.6)}
    mlp, ours = timms(12, 32, 20, **options), kat.GatedGRKANMlp(12, 32, 20, **layout, **options)
    assert [n for n, _ in ours.named_children()] == [n for n, _ in mlp.named_children()]
    ours.load_state_dict(mlp.state_dict(), strict=False)
    mlp.act = ours.act
    x = torch.randn(2, 5, 12)
    outputs = []
    for layer in (mlp, ours):
        torch.manual_seed(1)
        outputs.append(layer(x))
    torch.testing.assert_close(*outputs)


def test_the_signature_is_timms():
    timms = list(inspect.signature(SwiGLU).parameters)
    ours = list(inspect.signature(kat.GatedGRKANMlp).parameters)
    assert ours[:8] == timms[:8]
    assert {"gate_last", *timms} <= set(ours)
    assert (
        kat.GatedGRKANMlp(8, 13, align_to=8).fc2.in_features
        == SwiGLU(8, 13, align_to=8).fc2.in_features
    )


def test_options_reach_their_place():
    mlp = kat.GatedGRKANMlp(16, 24, drop=(0.1, 0.2), bias=False, num_groups=4, degree=(3, 2))
    assert (mlp.drop1.p, mlp.drop2.p) == (0.1, 0.2)
    assert mlp.fc1_g.bias is mlp.fc1_x.bias is mlp.fc2.bias is None
    assert mlp.act.weight_denominator.shape == (4, 2)
    assert kat.GatedGRKANMlp(16, num_groups="channels").act.num_groups == 16
    assert kat.GatedGRKANMlp(16, packed=True, num_groups="channels").act.num_groups == 8


@pytest.mark.parametrize("scheme", ["variance_preserving", "centered"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_second_moment_is_kept(scheme, packed):
    torch.manual_seed(0)
    width = 512
    hidden = 2 * width if packed else width
    mlp = kat.GatedGRKANMlp(256, hidden, 4096, weight_init=scheme, packed=packed)
    assert mlp.fc2.weight.var().item() == pytest.approx(2.8108 / width, rel=0.02)
    assert mlp(torch.randn(64, 256)).square().mean().item() == pytest.approx(1, rel=0.05)
    mlp.reset_parameters()
    assert not mlp.fc2.bias.any()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((8, 12), {}, "the gate's width=12 is not divisible by num_groups=8"),
        ((8, 17), {"packed": True}, "hidden_features must be even if packed, got 17"),
        ((8, 16), {"gate_last": True}, "gate_last=True needs packed=True"),
        ((8, 16), {"weight_init": "xavier"}, "scheme must be one of .* got 'xavier'"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        kat.GatedGRKANMlp(*arguments, **options)


def test_coefficients_are_found_for_their_own_group_of_parameters():
    groups = kat.param_groups(kat.GatedGRKANMlp(16, 24), lr=1e-3, weight_decay=0.1)
    assert [len(group["params"]) for group in groups if group["rational"]] == [2]
