"""The GPU kernels on a GPU, through the public calls."""

from __future__ import annotations

import pytest
import torch

import kat
from kat.ops import plain
from kat.ops.arguments import Rational
from tests.equality import assert_equal
from tests.marks import both_forms
from tests.oracle import assert_near

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU that torch can use"
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(16, 197, 768), (3, 3072), (7, 200), (1, 8), (5, 24), (0, 96), (1013, 768)]


def inputs(shape, dtype=torch.float32, device="cuda", degree=(5, 4), rows=(1, 8)):
    """grad, x, numerator and denominator, the last three to differentiate for."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows[0], degree[0] + 1, generator=generator)
    b = torch.randn(rows[1], degree[1], generator=generator) + 0.4
    grad, x = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    leaves = (t.to(device).requires_grad_() for t in (x, a, b))
    return grad.to(device), *leaves


def results(grad, x, a, b, form="A", impl="triton"):
    y = kat.rational(x, a, b, form=form, impl=impl)
    return y.detach(), *torch.autograd.grad(y, (x, a, b), grad, materialize_grads=True)


def check(grad, x, a, b, form="A"):
    """The error of y, dx, da and db is at most twice that of plain PyTorch in the same dtype."""
    double = (t.detach().double().requires_grad_() for t in (grad, x, a, b))
    exact = results(*double, form, impl="reference")
    eager = results(grad, x, a, b, form, impl="reference")
    assert_near(results(grad, x, a, b, form), exact, eager)


@both_forms
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(shape, dtype, form):
    check(*inputs(shape, dtype), form)


def gated_results(tensors, impl, form="A"):
    grad, *leaves = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    y = kat.gated_rational(*leaves, form=form, impl=impl)
    return y.detach(), *torch.autograd.grad(y, leaves, grad.detach(), materialize_grads=True)


@both_forms
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gate_against_float64_and_the_same_bits_again(shape, dtype, form):
    grad, x, a, b = inputs(shape, dtype)
    case = (grad, x, x.detach().flip(0), a, b)
    found, eager = (gated_results(case, impl, form) for impl in ("triton", "reference"))
    exact = gated_results([tensor.double() for tensor in case], "reference", form)
    assert_near(found, exact, eager, names=("y", "dx", "dv", "da", "db"))
    again = gated_results(case, "triton", form)
    assert_equal(found, again)


@pytest.mark.parametrize("size", [7, 14, 37])
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_first(size, dtype):
    grad, x, a, b = inputs((2, 64, size, size), dtype)
    check(grad.movedim(1, -1), x.movedim(1, -1), a, b)
    y = kat.rational(x.movedim(1, -1), a, b)
    assert y.movedim(-1, 1).is_contiguous()


def test_not_contiguous_and_not_aligned():
    _, x, a, b = inputs((33, 800))
    for view in (x[:, 16:784], x[::2, :768], x.flatten()[1:24001].view(30, 800), x.t()[:, :32]):
        leaf = view.detach().requires_grad_()
        check(torch.ones_like(leaf), leaf, a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_twenty_times(dtype):
    case = inputs((16, 197, 768), dtype)
    first = results(*case)
    for _ in range(20):
        assert_equal(first, results(*case))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_gpu_that_is_not_the_current_one():
    assert torch.cuda.current_device() == 0
    check(*inputs((64, 768), device="cuda:1"))
    assert torch.cuda.current_device() == 0


def test_in_a_cuda_graph():
    grad, x, a, b = inputs((64, 768))
    expected = results(grad, x, a, b)  # also compiles, which a capture must not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(grad, x, a, b)
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    assert_equal(captured, expected)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("impl", [None, "triton"])
def test_compiled(impl, mode):
    grad, x, a, b = inputs((64, 768))
    function = torch.compile(
        lambda *tensors: kat.rational(*tensors, impl=impl), fullgraph=True, mode=mode
    )
    y = function(x, a, b)
    gradients = torch.autograd.grad(y, (x, a, b), grad)
    assert_equal((y, *gradients), results(grad, x, a, b))


@pytest.mark.release  # alone: its tensors take 17 GB
def test_beyond_int32():
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GB of free GPU memory")
    x = torch.zeros(2**31 // 768 + 100, 768, dtype=torch.bfloat16, device="cuda")
    x[-1] = torch.linspace(-3, 3, 768)
    _, _, a, b = (t.detach() for t in inputs((1, 768)))
    y = kat.rational(x, a, b)
    assert torch.equal(y[-1], kat.rational(x[-1:], a, b)[0])
    dx, *_ = torch.ops.kat.rational_backward(torch.ones_like(x), x, a, b, None, form="A")
    expected = plain.backward(Rational(a, b), torch.ones_like(x[-1:]), x[-1:])[0]
    torch.testing.assert_close(dx[-1:], expected)
