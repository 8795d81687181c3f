"""The GPU kernels of F(x) v on a GPU, through the public call."""

from __future__ import annotations

import pytest
import torch

import kat
from tests.oracle import assert_near

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU that torch can use"
)
DEVICE = "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(16, 197, 192), (5, 768), (3, 3072), (7, 200), (0, 96), (1013, 384)]
NAMES = ("y", "dx", "dv", "da", "db")


def inputs(shape, dtype=torch.float32, rows=(1, 8)):
    """The gradient of y, and the tensors of the operator."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    grad, x, v = (normal(*shape).to(dtype) for _ in range(3))
    a, b = normal(rows[0], 6), normal(rows[1], 4) + 0.4
    return [tensor.to(DEVICE) for tensor in (grad, x, v, a, b)]


def results(tensors, impl, form="A"):
    grad, *leaves = (tensor.detach().clone() for tensor in tensors)
    for leaf in leaves:
        leaf.requires_grad_()
    y = kat.gated_rational(*leaves, form=form, impl=impl)
    return y.detach(), *torch.autograd.grad(y, leaves, grad, materialize_grads=True)


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(shape, dtype, form):
    tensors = inputs(shape, dtype)
    exact = results([tensor.double() for tensor in tensors], "reference", form)
    eager = results(tensors, "reference", form)
    found = results(tensors, "triton", form)
    if dtype == torch.float64:  # float64 is no measure of its own error
        torch.testing.assert_close(found, eager, rtol=1e-6, atol=1e-6)
    else:
        assert_near(found, exact, eager, names=NAMES)


@pytest.mark.parametrize("rows", [(1, 1), (8, 1), (8, 8)])
def test_the_same_bits_twenty_times(rows):
    tensors = inputs((16, 197, 192), rows=rows)
    first = results(tensors, "triton")
    for _ in range(19):
        again = results(tensors, "triton")
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
