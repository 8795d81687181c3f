"""Devices and systems that are not here: what kat does there is decided by their names alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kat
from kat.analysis.verify import Backend, cases, verify
from kat.ops import operators, plain, scaled
from kat.ops.arguments import Rational
from tests.marks import both_forms


class WithoutFloat64(TorchDispatchMode):
    """As on Apple's GPUs, a float64 tensor cannot be made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


class OnMps(torch.Tensor):
    """A tensor of the CPU that says to be on another device, as all that is computed of it."""

    device = torch.device("mps")


class Count(TorchDispatchMode):
    """Counts the values of a device that Python reads."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if "device" in kwargs:  # of a new tensor
            kwargs["device"] = "cpu"
        result = function(*args, **kwargs)
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return result


def passes(kind, monkeypatch, huge=1.0):
    """Return the counts of a forward and a backward pass, and y, dx, da and db; one x is huge."""
    monkeypatch.setattr(plain, "is_eager", lambda *_: True)  # though the counting is a mode
    torch.manual_seed(0)
    x = torch.randn(512, 256)
    x[0, 0] = huge
    tensors = torch.randn(512, 256), x, torch.randn(1, 6), torch.randn(8, 4)
    grad, *inputs = (tensor.as_subclass(kind) for tensor in tensors)
    x, f = inputs[0], Rational(*inputs[1:])
    with Count() as forward:
        y = plain.forward(f, x)
    with Count() as backward:
        gradients = plain.backward(f, grad, x)[:3]
    return forward, backward, [result.as_subclass(torch.Tensor) for result in (y, *gradients)]


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("huge", [1.0, 1e30])
def test_another_device_reads_once_a_pass_and_never_in_a_captured_graph(
    captured, huge, monkeypatch
):
    monkeypatch.setattr(scaled, "widest_dtype", lambda device: torch.float64)  # as XPU and CUDA
    monkeypatch.setattr(torch.mps, "is_current_stream_capturing", lambda: captured, raising=False)
    forward, backward, results = passes(OnMps, monkeypatch, huge)
    assert (forward.reads, backward.reads) == ((0, 0) if captured else (1, 1))
    *_, expected = passes(torch.Tensor, monkeypatch, huge)
    for found, wanted in zip(results, expected, strict=True):
        assert torch.equal(found, wanted) or (captured and torch.allclose(found, wanted))


def test_a_device_without_a_kernel_warns_once(recwarn):
    operators.warn_once.cache_clear()
    x, a, b = (torch.ones(shape).as_subclass(OnMps) for shape in ((2, 8), (1, 6), (8, 4)))
    with Count():
        for _ in range(2):
            operators.run_forward(Rational(a, b), x)
    (warning,) = recwarn
    assert "no kernel for MPS" in str(warning.message)
    assert "impl='reference'" in str(warning.message)


def test_only_apples_gpus_have_no_float64():
    assert scaled.widest_dtype(torch.device("mps")) == torch.float32
    assert scaled.widest_dtype(torch.device("cpu")) == torch.float64
    assert scaled.widest_dtype(torch.device("cuda")) == torch.float64


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_works_without_float64(form, dtype, monkeypatch):
    """A dispatch mode hides values, as a GPU does: both arithmetics run."""
    torch.manual_seed(0)
    x, a, b = torch.randn(6, 16).to(dtype), torch.randn(1, 6), torch.randn(8, 4)
    inputs = [tensor.requires_grad_() for tensor in (x, a, b)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = kat.rational(*exact, form=form, impl="reference")
    expected_gradients = torch.autograd.grad(expected.sum(), exact)
    monkeypatch.setattr(scaled, "widest_dtype", lambda device: torch.float32)
    with WithoutFloat64():
        y = kat.rational(*inputs, form=form, impl="reference")
        gradients = torch.autograd.grad(y.sum(), inputs)
    tolerance = (
        {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 2e-2}
    )
    torch.testing.assert_close(y.double(), expected, **tolerance)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found.double(), wanted, **tolerance)


def test_without_float64_results_hold_up_to_the_maximum(monkeypatch):
    """The reference in float64, beside which verify holds the results, keeps its own dtype."""
    gradients = scaled.gradients

    def in_own_dtype(f, grad, x):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scaled, "widest_dtype", lambda device: x.dtype)
            return gradients(f, grad, x)

    monkeypatch.setattr(scaled, "gradients", in_own_dtype)
    on_mps = Backend("MPS", partial(kat.rational, impl="reference"))
    found = verify([on_mps], cases(["float32"], stride=8))
    assert {result.degree for result in found} == {(3, 2), (5, 4), (7, 6), (9, 8)}
    assert max(result.ratio for result in found) <= 1
