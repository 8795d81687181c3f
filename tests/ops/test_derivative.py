"""Derivatives of F by kernels, in losses that differentiate a network again: values and gradients
against mpmath and against autograd of the formula, and what has no kernel."""

import pytest
import torch

import kat
from kat.ops import derivative as module
from kat.ops.arguments import Rational
from kat.ops.derivative import derivative
from tests.kernels import needs_kernel
from tests.marks import both_forms
from tests.oracle import random_case

pytestmark = needs_kernel
ORDERS = (1, 2, 3)


def _formula(x, a, b, form):
    """F term by term, each channel with the coefficients of its group; autograd does the rest."""
    groups, channels = max(len(a), len(b)), x.shape[-1]
    a, b = (c.expand(groups, -1).repeat_interleave(channels // groups, 0) for c in (a, b))
    p = sum(a[:, i] * x**i for i in range(a.shape[1]))
    size, b = (x.abs(), b.abs()) if form == "A" else (x, b)
    s = sum((b[:, j] * size ** (j + 1) for j in range(b.shape[1])), torch.zeros_like(x))
    return p / (1 + (s if form == "A" else s.abs()))


def derivative_of(x, a, b, form, order):
    return derivative(Rational(a, b, form), x, order=order)


def _expected(x, a, b, form, order, grad):
    x, a, b = (t.detach().double().requires_grad_() for t in (x, a, b))
    y = _formula(x, a, b, form)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    found = torch.autograd.grad(y, (x, a, b), grad.double(), materialize_grads=True)
    return y.detach(), *found


def _check(x, a, b, form, order, times=1.0):
    leaves = [t.detach().requires_grad_() for t in (x, a, b)]
    grad = torch.randn(x.shape, dtype=x.dtype)
    y = derivative_of(*leaves, form=form, order=order)
    found = torch.autograd.grad(y, leaves, grad)
    for actual, expected in zip((y, *found), _expected(x, a, b, form, order, grad), strict=True):
        assert actual.shape == expected.shape
        if expected.numel():
            error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1)
            assert error <= times * 64 * torch.finfo(x.dtype).eps


@pytest.mark.parametrize("order", ORDERS)
@both_forms
@pytest.mark.parametrize("degree", [(1, 1), (5, 4), (4, 6), (5, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_the_formula(order, form, degree, dtype, instruction_set):
    for rows in ((1, 3), (3, 1), (3, 3), (1, 1)):
        x, a, b = random_case((5, 12), rows, degree, dtype)
        _check(x, a, b, form, order, times=8)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((3, 15), 5), ((7, 6), 6), ((40, 8, 96), 8), ((2000, 64), 1), ((3, 1), 1), ((0, 12), 3)],
)
def test_any_size_and_layout(shape, groups, instruction_set):
    x, a, b = random_case(shape, (1, groups), (5, 4))
    _check(x, a, b, "A", 2, times=shape[0])
    turned = x.unsqueeze(0).transpose(0, 1).contiguous().transpose(0, 1).squeeze(0)
    spread = torch.empty(*shape[:-1], 2 * shape[-1], dtype=x.dtype)[..., ::2].copy_(x)
    channels_first = x.movedim(-1, 0).contiguous().movedim(0, -1)
    for other in (turned, spread, channels_first):
        assert torch.equal(*(derivative_of(t, a, b, form="A", order=2) for t in (other, x)))


@both_forms
def test_where_powers_overflow_the_reference_takes_over(form):
    """Also in the backward pass, whose incoming gradient may be too small for the kernel."""
    _, a, b = random_case((2, 2), (1, 1), (5, 4), torch.float32)
    x = torch.tensor([[1e12, 0.5], [float("nan"), -1.5]], requires_grad=True)
    first, expected = (
        torch.autograd.grad(kat.rational(x, a, b, form=form, impl=i).sum(), x, create_graph=True)[0]
        for i in (None, "reference")
    )
    torch.testing.assert_close(first, expected, equal_nan=True)
    second, expected = (torch.autograd.grad(g[:, 1].sum(), x)[0] for g in (first, expected))
    torch.testing.assert_close(second[:, 1], expected[:, 1])
    x = torch.tensor([[30.0, 40.0]], requires_grad=True)
    f = Rational(a, b, form)
    y = derivative(f, x, order=1)
    tiny = torch.full_like(y, 1e-44)
    assert module.kernel_gradients(f, tiny, x.detach(), order=1) is None
    (dx,) = torch.autograd.grad(y, x, tiny)
    assert dx.isfinite().all()


def test_beyond_the_third_derivative_the_reference_takes_over():
    x, a, b = random_case((3, 4), (1, 2), (5, 4))
    x.requires_grad_()
    y, expected = kat.rational(x, a, b), _formula(x, a, b, "A")
    for _ in range(5):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("order", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@both_forms
@pytest.mark.parametrize("degree", [(3, 2), (3, 0)])
def test_gradients_of_gradients_are_those_of_finite_differences(form, degree, order):
    x, a, b = random_case((3, 4), (1, 2), degree)
    b = b.abs() + 0.2  # away from the kinks
    inputs = [t.requires_grad_() for t in (x + 0.3 * x.sign(), a, b)]
    assert torch.autograd.gradgradcheck(
        lambda *t: derivative_of(*t, form=form, order=order), inputs
    )


LAYERS = (kat.GRKANMlp, kat.GatedGRKANMlp, kat.GRKANLinear)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_loss_of_second_derivatives_uses_them_in_every_layer(layer, monkeypatch):
    calls = []
    monkeypatch.setattr(
        module,
        "derivative",
        lambda f, x, order: calls.append(order) or derivative(f, x, order=order),
    )
    found = []
    for impl in (None, "reference"):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 8), layer(8, 16, impl=impl)).double()
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
        x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        seconds = [
            torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in (0, 1)
        ]
        loss = (sum(seconds) + first.sum(1)).square().mean()
        found.append((loss, *torch.autograd.grad(loss, net.parameters(), materialize_grads=True)))
        assert {1, 2} <= set(calls) if impl is None else not calls
        calls.clear()
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


def test_gradients_of_coefficients_are_equal_bit_by_bit_for_any_number_of_threads():
    x, a, b = random_case((4000, 24), (1, 8), (5, 4), torch.float32)
    grad = torch.randn_like(x)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(module.kernel_gradients(Rational(a, b), grad, x, order=2))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("impl", [None, "reference"])
@both_forms
def test_even_powers_have_all_their_derivatives_at_zero(impl, form):
    """F = 1 / (1 + x^2), whose derivatives at 0 are 0, -2, 0, 24."""
    a = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    y, found = kat.rational(x, a, b, form=form, impl=impl), []
    for _ in range(4):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        found.append(y[0, 0].item())
    assert found == pytest.approx([0, -2, 0, 24])


@pytest.mark.parametrize("transform", ["vmap", "jvp"])
@pytest.mark.parametrize("of", ["x", "x alone", "coefficients"])
def test_transforms_over_a_recorded_gradient(transform, of):
    """The gradient of a gradient is linear in what comes in from above."""
    x, a, b = random_case((3, 4), (1, 2), (5, 4))
    inputs = [t.requires_grad_(of != "x alone" or t is x) for t in (x, a, b)]
    at = 1 if of == "coefficients" else 0
    first = torch.autograd.grad(kat.rational(*inputs).sum(), inputs[at], create_graph=True)[0]

    def pull_back(grad):
        return torch.autograd.grad(first, x, grad, retain_graph=True)[0]

    grads = torch.randn(5, *first.shape, dtype=torch.float64)
    expected = torch.stack([pull_back(grad) for grad in grads])
    if transform == "vmap":
        found = torch.func.vmap(pull_back)(grads)
    else:
        found = torch.stack([torch.func.jvp(pull_back, (0 * g,), (g,))[1] for g in grads])
    torch.testing.assert_close(found, expected)
