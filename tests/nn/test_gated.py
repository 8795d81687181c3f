"""The gated GR-KAN MLP beside timm's gated MLPs."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked
from torch import nn

import kat
from tests.marks import both_forms
from tests.nn.saved import saved_bytes

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
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        kat.GatedGRKANMlp(*arguments, **options)


class _Rounded(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x).bfloat16()


def test_a_value_of_another_dtype_than_the_gate_is_named():
    """Blocks would read its memory as the gate's dtype."""
    mlp = kat.GatedGRKANMlp(16, 64)
    mlp.fc1_x = _Rounded(mlp.fc1_x)
    for training in (True, False):
        with torch.set_grad_enabled(training), pytest.raises(ValueError, match="v must have x's"):
            mlp(torch.randn(4000, 16))


PACKINGS = [{}, {"packed": True}, {"packed": True, "gate_last": True}]


def _pair(**options):
    """An MLP with coefficients of its own, and the same MLP with ``keep="all"``."""
    torch.manual_seed(0)
    mlp = kat.GatedGRKANMlp(12, 32, 20, share="none", **options)
    with torch.no_grad():
        for parameter in mlp.act.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain = copy.deepcopy(mlp)
    plain.keep = "all"
    return mlp, plain


def _gradients(mlp, x, grad, autocast=False):
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = mlp(x)
    parameters = list(mlp.parameters())
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], grad.to(y.dtype))]


@pytest.mark.parametrize("options", PACKINGS)
@both_forms
def test_the_layer_has_the_gradients_of_its_modules(options, form):
    mlp, plain = _pair(form=form, dtype=torch.float64, **options)
    x, grad = torch.randn(3, 5, 12).double(), torch.randn(3, 5, 20).double()
    got, expected = _gradients(mlp, x, grad), _gradients(plain, x, grad)
    plain.act.register_forward_hook(lambda module, args, y: None)  # then it is called
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got, _gradients(plain, x, grad))


@pytest.mark.parametrize("options", PACKINGS)
def test_under_autocast(options):
    mlp, plain = _pair(**options)
    x, grad = torch.randn(4, 12), torch.randn(4, 20)
    oracle = _gradients(plain, x, grad)
    for ours, theirs, true in zip(
        _gradients(mlp, x, grad, autocast=True),
        _gradients(plain, x, grad, autocast=True),
        oracle,
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        luck = 0.02 * true.abs().max()
        assert (ours - true).abs().max() <= 2 * (theirs - true).abs().max() + luck


@pytest.mark.parametrize("options", PACKINGS)
def test_the_layer_keeps_input_gate_and_value(options):
    mlp, plain = _pair(**options)
    x, size = torch.randn(7, 12), 4 * 7 * mlp.fc2.in_features
    assert saved_bytes(mlp, x) == x.nbytes + 2 * size
    assert saved_bytes(plain, x) == x.nbytes + 3 * size


@pytest.mark.parametrize("options", PACKINGS)
def test_higher_derivatives_transforms_and_graphs(options):
    mlp, plain = _pair(dtype=torch.float64, **options)
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(mlp, x)
    mapped = torch.func.vmap(torch.func.jacrev(mlp))(x)
    expected = torch.autograd.functional.jacobian(plain, x)
    torch.testing.assert_close(mapped, expected[range(3), :, range(3)])
    compiled = torch.compile(mlp, backend="aot_eager", fullgraph=True)
    grad = torch.randn(3, 20, dtype=torch.float64)
    torch.testing.assert_close(_gradients(compiled, x, grad), _gradients(plain, x, grad))
    traced = torch.fx.symbolic_trace(mlp)
    torch.testing.assert_close(traced(x), plain(x))


@pytest.mark.parametrize("options", PACKINGS)
def test_what_is_more_than_its_formula_is_called(options):
    mlp, _ = _pair(drop=0.5, norm_layer=nn.LayerNorm, **options)
    x, seen = torch.randn(3, 12), []
    mlp.act.register_forward_hook(lambda module, args, y: seen.append("act"))
    mlp.fc2.register_forward_hook(lambda module, args, y: seen.append("fc2"))
    mlp(x)
    assert seen == ["act", "fc2"]
    mlp.act = nn.SiLU()
    mlp.eval()
    first, second = mlp.fc1(x).chunk(2, dim=-1) if mlp.packed else (mlp.fc1_g(x), mlp.fc1_x(x))
    gate, value = (second, first) if mlp.gate_last else (first, second)
    torch.testing.assert_close(mlp(x), mlp.fc2(mlp.norm(nn.functional.silu(gate) * value)))
    other, _ = _pair(impl="triton", **options)
    with pytest.raises((ValueError, RuntimeError), match="impl"):
        other(x)
