"""GR-KAN layers that keep their inputs alone: the numbers of modules, with less kept."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import kat
from kat.nn import register_grkan_hook
from kat.nn.blocks import decision
from kat.ops.cpu import backend as cpu
from tests.equality import assert_equal
from tests.marks import both_forms
from tests.nn.saved import saved_bytes


def _pair(keep=None, **options):
    torch.manual_seed(0)
    plain = kat.GRKANMlp(16, 32, keep="all", **options)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "weight_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    ours = kat.GRKANMlp(16, 32, keep=keep, **options)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def _gradients(module, x, grad):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(grad.to(y.dtype))
    return [y, x.grad, *(p.grad for p in module.parameters())]


@both_forms
@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_same_value_and_gradients_as_the_modules(form, share, bias, dtype):
    plain, ours = _pair(form=form, share=share, bias=bias, dtype=dtype)
    x, grad = torch.randn(2, 3, 5, 16, dtype=dtype), torch.randn(2, 3, 5, 16, dtype=dtype)
    torch.testing.assert_close(_gradients(ours, x, grad), _gradients(plain, x, grad))


@pytest.mark.parametrize("model", ["kat_micro_patch2_8", "kat_glu_micro_patch2_8"])
def test_a_default_device_changes_nothing(model):
    """The code gives each new tensor a device: none gets to a default that has no memory."""
    torch.manual_seed(0)
    ours, x, grad = timm.create_model(model), torch.randn(4, 3, 8, 8), torch.randn(4, 10)
    expected = _gradients(ours, x, grad)
    inferred = ours.eval().requires_grad_(False)(x)
    with torch.device("meta"):
        assert torch.equal(ours(x), inferred)
        ours.zero_grad()
        ours.train().requires_grad_(True)
        assert_equal(_gradients(ours, x, grad), expected)


def _keeps_inputs_only(module, x, *widths):
    """Return True if the inputs of the layers, of these widths, are all that is kept."""
    return saved_bytes(module, x) == len(x) * sum(widths) * 4


def test_keeps_its_inputs_only():
    x = torch.randn(10, 192, requires_grad=True)
    ours = kat.GRKANMlp(192, 768)
    assert _keeps_inputs_only(ours, x, 192, 768)
    assert saved_bytes(ours, x) <= 0.6 * saved_bytes(timm.layers.Mlp(192, 768), x)


@pytest.mark.parametrize("mlp", [kat.GRKANMlp(192, 768), kat.GatedGRKANMlp(192, 768)])
def test_a_small_call_on_a_cpu_calls_the_modules(mlp, monkeypatch):
    """They are faster than the formula, and what they keep is little."""
    widths = (192, 768, 768) if hasattr(mlp, "fc1_g") else (192, 768)
    values_of_ten_rows = 10 * widths[len(widths) - 2]
    monkeypatch.setattr(decision, "SMALL", values_of_ten_rows)
    x = torch.randn(10, 192, requires_grad=True)
    assert _keeps_inputs_only(mlp, x, *widths)
    assert not _keeps_inputs_only(mlp, x[:9], *widths)


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_rounds_the_rational_to_the_dtype_of_the_product(compiled):
    """The rational writes it, and compiled code casts F_1's input as a ViT casts its norm."""
    plain, ours = _pair()
    x, grad = torch.randn(6, 16), torch.randn(6, 16)
    seen = []
    for linear in (plain.fc1, plain.fc2):
        linear.register_forward_hook(lambda module, args, y: seen.append(args[0].dtype))
    module = torch.compile(plain, backend="eager") if compiled else plain
    with torch.autocast("cpu", torch.bfloat16):
        pairs = zip(_gradients(ours, x, grad), _gradients(module, x, grad), strict=True)
    assert seen == [torch.bfloat16] * 2
    rtol, atol = (0.05, 0.05) if compiled else (0.02, 1e-3)  # F_1's input is rounded as well
    for actual, expected in pairs:
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.slow
def test_a_wrapped_linear_map_is_called():
    """As of LoRA: it has no ``out_features``."""
    x = torch.randn(4, 16)
    for name in ("fc1", "fc2"):
        mlp = kat.GRKANMlp(16, 64)
        expected = mlp(x)
        setattr(mlp, name, nn.Sequential(getattr(mlp, name)))
        for training in (True, False):
            with torch.set_grad_enabled(training):
                torch.testing.assert_close(mlp(x), expected)
                torch.testing.assert_close(torch.compile(mlp, backend="eager")(x), expected)


@pytest.mark.parametrize("name", ["act", "fc"])
def test_a_forward_of_the_instance_is_called(name):
    """accelerate's hooks are such functions; those of ``cpu_offload`` move the weights."""
    layer, x = kat.GRKANLinear(16, 4), torch.randn(2, 16)
    before, module = layer(x), getattr(layer, name)
    plain = module.forward
    module.forward = lambda x: plain(x) + 1
    assert torch.equal(layer(x), layer.fc(layer.act(x)))
    assert not torch.equal(layer(x), before)


@pytest.mark.parametrize("keep", ["hidden", "all"])
@pytest.mark.parametrize("frozen", ["fc", "act", "fc.weight", "fc.bias", "x", ""])
def test_what_is_frozen_costs_no_gradient(frozen, keep, monkeypatch):
    """Neither sums for coefficients that are frozen, nor F(x) again for a frozen weight."""
    asked, backward = [], cpu.backward
    spy = lambda *tensors, **options: asked.append(options) or backward(*tensors, **options)  # noqa: E731
    monkeypatch.setattr(cpu, "backward", spy)
    grads = []
    for each in (keep, "by hand"):
        torch.manual_seed(0)
        layer = kat.GRKANLinear(16, 4, keep=None if each == "by hand" else each)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not (frozen and name.startswith(frozen)))
        x = torch.randn(5, 16).requires_grad_(frozen != "x")
        y = layer(x) if each == keep else layer.fc(layer.act(x))
        y.square().sum().backward()
        grads.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    assert asked[0]["coefficients"] == (frozen != "act")
    if keep == "hidden":
        assert (asked[0]["y"] is not None) == (frozen not in ("fc", "fc.weight"))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("options", [{}, {"keep": "all"}, {"drop": 0.5}])
def test_a_registered_hook_sees_each_layer_as_it_runs_and_changes_nothing(options):
    torch.manual_seed(0)
    ours = kat.GRKANMlp(16, 32, **options)
    x, grad = torch.randn(4, 16), torch.randn(4, 16)
    torch.manual_seed(1)
    expected = _gradients(ours, x, grad)
    ours.zero_grad()
    seen = []
    handle = register_grkan_hook(lambda *arguments: seen.append(arguments))
    torch.manual_seed(1)
    actual = _gradients(ours, x, grad)
    assert all(map(torch.equal, actual, expected))
    (act1, fc1, x1, y1), (act2, fc2, x2, y2) = seen
    assert (act1, fc1, act2, fc2) == (ours.act1, ours.fc1, ours.act2, ours.fc2)
    assert x2 is y1
    assert torch.equal(x1, x)
    assert torch.equal(y2, actual[0])
    assert _keeps_inputs_only(ours, x, 16, 32) == (not options)
    assert len(seen) == 4
    handle.remove()
    ours(x)
    assert len(seen) == 4
