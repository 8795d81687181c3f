"""The GPU kernels of F(x) v and F(LayerNorm(x)) on a GPU, through the public calls."""

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
OPERATORS = {"gate": kat.gated_rational, "norm": kat.ops.layer_norm_rational}
NAMES = {"gate": ("y", "dx", "dv", "da", "db"), "norm": ("y", "dx", "dw", "dbias", "da", "db")}


def inputs(kind, shape, dtype=torch.float32, rows=(1, 8)):
    """The gradient of y, and the tensors of the operator."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    grad, x, v = (normal(*shape).to(dtype) for _ in range(3))
    a, b = normal(rows[0], 6), normal(rows[1], 4) + 0.4
    others = (v,) if kind == "gate" else (normal(shape[-1]) + 1, normal(shape[-1]))
    return [tensor.to(DEVICE) for tensor in (grad, x, *others, a, b)]


def results(kind, tensors, impl, form="A"):
    grad, *leaves = (tensor.detach().clone() for tensor in tensors)
    for leaf in leaves:
        leaf.requires_grad_()
    y = OPERATORS[kind](*leaves, form=form, impl=impl)
    return y.detach(), *torch.autograd.grad(y, leaves, grad, materialize_grads=True)


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", OPERATORS)
def test_against_float64(kind, shape, dtype, form):
    tensors = inputs(kind, shape, dtype)
    exact = results(kind, [tensor.double() for tensor in tensors], "reference", form)
    eager = results(kind, tensors, "reference", form)
    found = results(kind, tensors, "triton", form)
    if dtype == torch.float64:  # float64 is no measure of its own error
        torch.testing.assert_close(found, eager, rtol=1e-6, atol=1e-6)
    else:
        assert_near(found, exact, eager, names=NAMES[kind])


@pytest.mark.parametrize("rows", [(1, 1), (8, 1), (8, 8)])
@pytest.mark.parametrize("kind", OPERATORS)
def test_the_same_bits_twenty_times(kind, rows):
    tensors = inputs(kind, (16, 197, 192), rows=rows)
    first = results(kind, tensors, "triton")
    for _ in range(19):
        again = results(kind, tensors, "triton")
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_an_mlp_with_its_norm_is_the_norm_then_the_mlp():
    torch.manual_seed(0)
    mlp, norm = kat.GRKANMlp(192, 768).to(DEVICE), torch.nn.LayerNorm(192).to(DEVICE)
    x = torch.randn(2, 197, 192, device=DEVICE, requires_grad=True)
    parameters = [x, *norm.parameters(), *mlp.parameters()]
    y, expected = mlp(x, norm=norm), mlp(norm(x))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    found, wanted = (
        torch.autograd.grad(each.square().mean(), parameters) for each in (y, expected)
    )
    for ours, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-5)
