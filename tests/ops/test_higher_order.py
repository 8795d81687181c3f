"""Derivatives beyond the first: double backward of every backend, batches, function transforms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd import functional as twice

import kat
from tests import kernels
from tests.marks import both_forms, most_at_night
from tests.oracle import random_case

IMPLS = (None, "reference", "cpu")
BY_NAME = "impl='reference'"


@pytest.fixture(params=IMPLS, ids=str)
def impl(request):
    if request.param == "cpu" and kernels.problem():
        pytest.skip(kernels.problem())
    return request.param


def smooth_case(shape, rows, degree):
    """x and the coefficients away from the kinks at x = 0, at b_j = 0 and where form B's s = 0."""
    x, a, b = random_case(shape, rows, degree)
    generator = torch.Generator().manual_seed(1)
    size = 0.3 + 0.9 * torch.rand(shape, generator=generator, dtype=x.dtype)
    b = b.abs().clamp(min=0.2) / torch.arange(1, degree[1] + 1) ** 2
    x = torch.copysign(size, x)
    if x.shape[-1] == 4:
        rows = b.expand(2, -1).repeat_interleave(2, 0)
        s = sum(rows[:, j] * x ** (j + 1) for j in range(degree[1]))
        assert s.abs().min() > 1e-3
    return tuple(t.requires_grad_() for t in (x, a, b))


@pytest.mark.slow
@both_forms
@pytest.mark.parametrize(
    ("degree", "rows"), [((3, 2), (1, 2)), ((5, 4), (2, 1)), ((7, 6), (2, 2)), ((5, 4), (1, 1))]
)
def test_double_backward_equals_central_differences(impl, form, degree, rows):
    inputs = smooth_case((2, 4), rows, degree)

    def function(x, a, b):
        return kat.rational(x, a, b, form=form, impl=impl)

    assert torch.autograd.gradgradcheck(function, inputs)


@both_forms
def test_each_second_derivative_equals_that_of_plain_pytorch(impl, form):
    """All of the blocks xx, xa, xb, aa, ab, bb, through autograd of the forward pass alone."""
    inputs = smooth_case((1, 4), (2, 2), (5, 4))

    def loss(backend):
        return lambda *tensors: kat.rational(*tensors, form=form, impl=backend).square().sum()

    ours = twice.hessian(loss(impl), inputs)
    expected = torch.func.hessian(loss("reference"), argnums=(0, 1, 2))(*inputs)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("order", [0, 1])
def test_batches_of_gradients(impl, order):
    """``is_grads_batched`` passes tensors without storage, which no kernel may touch."""
    inputs = smooth_case((3, 8), (1, 4), (5, 4))
    grads = torch.randn(5, 3, 8, dtype=torch.float64)
    y = kat.rational(*inputs, impl=impl)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
    for create_graph in (False, True):
        batch = torch.autograd.grad(
            y, inputs, grads, is_grads_batched=True, retain_graph=True, create_graph=create_graph
        )
        one_by_one = [torch.autograd.grad(y, inputs, g, retain_graph=True) for g in grads]
        for actual, expected in zip(batch, zip(*one_by_one, strict=True), strict=True):
            torch.testing.assert_close(actual, torch.stack(expected))
    x = inputs[0].detach()

    def loss(x):
        return kat.rational(x, *inputs[1:], impl=impl).square().sum()

    torch.testing.assert_close(twice.hessian(loss, x, vectorize=True), twice.hessian(loss, x))


@pytest.mark.parametrize("keep", ["all", "hidden"])
def test_forward_mode_over_a_recorded_backward_pass(keep):
    """The gradient is linear in what comes in from above, so its tangent is the gradient itself."""
    layer = kat.GRKANLinear(8, 3, num_groups=2, keep=keep, dtype=torch.float64)
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    (expected,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(torch.zeros_like(y), torch.ones_like(y))
        (dx,) = torch.autograd.grad(y, x, grad)
        torch.testing.assert_close(forward_ad.unpack_dual(dx).tangent, expected)


def _dual(function, x):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        return forward_ad.unpack_dual(function(dual)).tangent


TRANSFORMS = {
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "forward_ad": lambda f: lambda x: _dual(f, x),
    "vmap": torch.func.vmap,
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum()),
    "jacrev": torch.func.jacrev,
    "jacfwd": torch.func.jacfwd,
    "hessian": lambda f: torch.func.hessian(lambda x: f(x).square().sum()),
}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", most_at_night(TRANSFORMS, ["jvp", "forward_ad", "vmap", "grad"]))
def test_function_transforms_outside_and_inside_the_compiler(name, compiled):
    x, a, b = (t.detach() for t in smooth_case((3, 8), (1, 4), (5, 4)))
    transformed = TRANSFORMS[name](lambda x: kat.rational(x, a, b))
    plain = TRANSFORMS[name](lambda x: kat.rational(x, a, b, impl="reference"))
    if compiled:
        torch.compiler.reset()
        transformed = torch.compile(transformed, backend="aot_eager", fullgraph=True)
    assert plain(x).abs().max() > 0.1
    torch.testing.assert_close(transformed(x), plain(x))


def test_compiled_code_is_recompiled_for_a_transform():
    x, a, b = (t.detach() for t in smooth_case((3, 8), (1, 4), (5, 4)))

    def function(x):
        return kat.rational(x, a, b)

    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x))
    with pytest.raises(RuntimeError, match=BY_NAME):  # nothing tells the compiler of this one
        _dual(compiled, x)
    jvp = TRANSFORMS["jvp"]
    torch.testing.assert_close(jvp(compiled)(x), jvp(function)(x))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("kernel", ["cpu", "triton"])
def test_kernels_asked_for_by_name_refuse_transforms(kernel, name):
    x, a, b = (t.detach() for t in smooth_case((3, 8), (1, 4), (5, 4)))
    with pytest.raises(RuntimeError, match=BY_NAME):
        TRANSFORMS[name](lambda x: kat.rational(x, a, b, impl=kernel))(x)


def test_the_operators_refuse_forward_mode_rather_than_lose_the_tangent():
    x, a, b = (t.detach() for t in smooth_case((3, 8), (1, 4), (5, 4)))
    with pytest.raises(RuntimeError, match=BY_NAME):
        _dual(lambda x: torch.ops.kat.rational(x, a, b, form="A"), x)
    with pytest.raises(RuntimeError, match=BY_NAME):
        _dual(lambda x: torch.ops.kat.rational_backward(x, x, a, b, None, form="A")[0], x)


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_penalty_in_low_precision(impl, dtype, form):
    """d/d(x, a, b) of sum F'(x)^2: x's and the coefficients' dtypes, and float64's numbers."""
    double = smooth_case((16, 8), (1, 4), (5, 4))
    x, a, b = (t.detach().to(dtype).requires_grad_() for t in double)
    a, b = (t.detach().float().requires_grad_() for t in (a, b))

    def penalty(impl, x, a, b):
        y = kat.rational(x, a, b, form=form, impl=impl)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(slope.to(a.dtype).square().sum(), (x, a, b))

    exact = penalty("reference", *(t.detach().double().requires_grad_() for t in (x, a, b)))
    for actual, expected, like in zip(penalty(impl, x, a, b), exact, (x, a, b), strict=True):
        assert actual.dtype == like.dtype
        error = (actual.double() - expected).abs().max() / expected.abs().max()
        assert error <= 8 * torch.finfo(dtype).eps


def test_second_derivative_where_the_first_overflows(impl):
    """F = x^5 at 1e10: F' = 5e40 is beyond float32's maximum, F'' = 20 x^3 = 2e31 is not."""
    x = torch.tensor([[1e10, 2.0]], requires_grad=True)
    a, b = torch.tensor([[0.0, 0, 0, 0, 0, 1]]), torch.zeros(1, 4)
    (dx,) = torch.autograd.grad(kat.rational(x, a, b, impl=impl).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.sum(), x)
    assert dx.tolist() == [[math.inf, 80.0]]
    torch.testing.assert_close(second, torch.tensor([[2e31, 160.0]]))
