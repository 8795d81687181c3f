"""The fused GR-KAN layer: the numbers of the plain pair, with less kept for the backward pass."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import kat
from kat.nn import register_grkan_hook
from kat.nn.execution import layer, run
from tests.nn.saved import saved_bytes


def _pair(**options):
    torch.manual_seed(0)
    plain = kat.GRKANMlp(16, 32, fused=False, **options)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "weight_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    ours = kat.GRKANMlp(16, 32, **options)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def _gradients(module, x, grad):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(grad.to(y.dtype))
    return [y, x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_same_value_and_gradients_as_the_plain_pair(form, share, bias, dtype):
    plain, ours = _pair(form=form, share=share, bias=bias, dtype=dtype)
    x, grad = torch.randn(2, 3, 5, 16, dtype=dtype), torch.randn(2, 3, 5, 16, dtype=dtype)
    for actual, expected in zip(_gradients(ours, x, grad), _gradients(plain, x, grad), strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("model", ["kat_micro_patch2_8", "kat_glu_micro_patch2_8"])
def test_a_default_device_changes_nothing(model):
    """Fused code gives each new tensor a device: none gets to a default that has no memory."""
    torch.manual_seed(0)
    ours, x, grad = timm.create_model(model), torch.randn(4, 3, 8, 8), torch.randn(4, 10)
    expected = _gradients(ours, x, grad)
    inferred = ours.eval().requires_grad_(False)(x)
    with torch.device("meta"):
        assert torch.equal(ours(x), inferred)
        ours.zero_grad()
        ours.train().requires_grad_(True)
        for actual, wanted in zip(_gradients(ours, x, grad), expected, strict=True):
            assert torch.equal(actual, wanted)


def _is_fused(module, x, *widths):
    """Whether the inputs of the layers, of these widths, are all that is saved."""
    return saved_bytes(module, x) == len(x) * sum(widths) * 4


def test_keeps_its_inputs_only():
    x = torch.randn(10, 192, requires_grad=True)
    ours = kat.GRKANMlp(192, 768)
    assert _is_fused(ours, x, 192, 768)
    assert saved_bytes(ours, x) <= 0.6 * saved_bytes(timm.layers.Mlp(192, 768), x)


@pytest.mark.parametrize("mlp", [kat.GRKANMlp(192, 768), kat.GatedGRKANMlp(192, 768)])
def test_a_small_call_on_a_cpu_calls_the_modules(mlp, monkeypatch):
    """They are faster than the formula, and what they keep is little."""
    widths = (192, 768, 768) if hasattr(mlp, "fc1_g") else (192, 768)
    monkeypatch.setattr(run, "SMALL", 10 * widths[len(widths) - 2])  # rows of the gate, or of x
    x = torch.randn(10, 192, requires_grad=True)
    assert _is_fused(mlp, x, *widths)
    assert not _is_fused(mlp, x[:9], *widths)


def test_inference_asks_for_the_formula_where_blocks_may_be_faster(monkeypatch):
    monkeypatch.setattr(run, "SMALL", 1)
    monkeypatch.setattr(run.blocks, "least_bytes", lambda: 10 * 768 * 4)
    with torch.no_grad():
        small = [run.is_small(torch.ones(n, 192), kat.GRKANMlp(192, 768).fc1) for n in (9, 10)]
    assert small == [True, False]


def test_autocast_rounds_the_rational_to_the_dtype_of_the_product(monkeypatch):
    """No cast stands between the two; the numbers are those of the modules."""
    plain, ours = _pair()
    x, grad = torch.randn(6, 16), torch.randn(6, 16)
    seen, linear = [], layer.functional.linear
    spy = lambda x, *others: seen.append(x.dtype) or linear(x, *others)  # noqa: E731
    monkeypatch.setattr(layer, "functional", SimpleNamespace(linear=spy))
    with torch.autocast("cpu", torch.bfloat16):
        pairs = zip(_gradients(ours, x, grad), _gradients(plain, x, grad), strict=True)
    assert seen == [torch.bfloat16] * 2
    for actual, expected in pairs:
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0.02, atol=1e-3)


def test_function_transforms_and_forward_mode():
    plain, ours = _pair()
    x, tangent = torch.randn(6, 16), torch.randn(6, 16)
    torch.testing.assert_close(torch.func.vmap(ours)(x), plain(x))
    actual, expected = (torch.func.jvp(m, (x,), (tangent,))[1] for m in (ours, plain))
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected)


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


def test_hooks_and_derived_modules_are_called():
    x = torch.randn(2, 16)
    seen = []
    hooked = kat.GRKANLinear(16, 4)
    hooked.fc.register_forward_hook(lambda module, args, output: seen.append(output))
    assert torch.equal(hooked(x), seen[0])
    assert not _is_fused(hooked, x, 16)

    class Adapter(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    derived = kat.GRKANLinear(16, 4)
    derived.fc = Adapter(16, 4)
    assert torch.equal(derived(x), derived.fc(derived.act(x)))
    assert not _is_fused(derived, x, 16)
    assert _is_fused(kat.GRKANLinear(16, 4), x, 16)


@pytest.mark.parametrize("name", ["act", "fc"])
def test_a_forward_of_the_instance_is_called(name):
    """accelerate's hooks are such functions; those of ``cpu_offload`` move the weights."""
    layer, x = kat.GRKANLinear(16, 4), torch.randn(2, 16)
    before, module = layer(x), getattr(layer, name)
    plain = module.forward
    module.forward = lambda x: plain(x) + 1
    assert torch.equal(layer(x), layer.fc(layer.act(x)))
    assert not torch.equal(layer(x), before)


@pytest.mark.filterwarnings("ignore")
def test_int8_weights_of_torchao_train_what_is_left():
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    layer, x = kat.GRKANMlp(32, 32), torch.randn(2, 32, requires_grad=True)
    plain = layer(x)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, plain, rtol=0.1, atol=0.1)
    assert x.grad.abs().sum() > 0
    assert layer.act2.weight_numerator.grad.abs().sum() > 0


class _Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("frozen", ["fc", "act", "fc.weight", "fc.bias", "x", ""])
def test_what_is_frozen_costs_no_gradient(frozen):
    """The same products and passes of the rational as without fusing, F(x) computed again aside."""
    calls, grads = [], []
    for fused in (True, False):
        torch.manual_seed(0)
        layer = kat.GRKANLinear(16, 4, fused=fused)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not (frozen and name.startswith(frozen)))
        x = torch.randn(5, 16).requires_grad_(frozen != "x")
        y = layer(x)
        with _Calls() as mode:
            y.square().sum().backward()
        calls.append(mode.count)
        grads.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    fused, plain = calls
    assert fused[torch.ops.aten.mm] == plain[torch.ops.aten.mm]
    kat_ops = torch.ops.kat
    backward = fused[kat_ops.rational_backward] + fused[kat_ops.rational_backward_recompute]
    assert backward == plain[kat_ops.rational_backward]
    if frozen.startswith("fc") and frozen != "fc.bias":
        assert not fused[kat_ops.rational_backward_recompute]
    for ours, wanted in zip(*grads, strict=True):
        assert (ours is None) == (wanted is None)
        if ours is not None:
            torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"drop": 0.5}])
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
    assert _is_fused(ours, x, 16, 32) == (not options)
    assert len(seen) == 4
    handle.remove()
    ours(x)
    assert len(seen) == 4
