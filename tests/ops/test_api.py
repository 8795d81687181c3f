"""The rational function: values, gradients, subgradients, dtypes, errors, registration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import kat
from tests.marks import both_forms
from tests.oracle import gradients_numpy, random_case, rational_numpy

DEGREES = ((1, 0), (1, 2), (3, 2), (5, 4), (7, 6))
ROWS = ((1, 4), (4, 1), (4, 4), (1, 1))
IMPLS = (None, "reference")


@pytest.mark.parametrize("impl", IMPLS)
@both_forms
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("rows", ROWS)
def test_value_is_p_over_q(form, degree, rows, impl):
    x, a, b = random_case((3, 5, 8), rows, degree)
    y = kat.rational(x, a, b, form=form, impl=impl)
    expected = rational_numpy(x.numpy(), a.numpy(), b.numpy(), form)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@both_forms
@pytest.mark.parametrize("rows", ROWS)
def test_gradients_equal_central_differences(form, rows, impl):
    x, a, b = (t.requires_grad_() for t in random_case((3, 8), rows, (5, 4)))
    grad = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).reshape(x.shape)
    kat.rational(x, a, b, form=form, impl=impl).backward(grad)
    arrays = (t.detach().numpy() for t in (grad, x, a, b))
    for tensor, expected in zip((x, a, b), gradients_numpy(*arrays, form), strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("impl", IMPLS)
def test_subgradients_form_a(impl):
    """d|b|/db = +1 at b = 0, sgn(b) elsewhere; d|x|/dx = 0 at x = 0."""
    x = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for value, sign in ((0.0, 1.0), (0.5, 1.0), (-0.5, -1.0)):
        b = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        kat.rational(x, a, b, impl=impl).backward()
        q = 1 + abs(value) * 2
        assert b.grad.item() == pytest.approx(-sign * 2 * 2 / q**2)
    zero = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    a = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    kat.rational(zero, a, torch.ones(1, 1, dtype=torch.float64), impl=impl).backward()
    assert zero.grad.item() == 1.0


def test_float32_gradient_stays_right_for_large_inputs():
    """The published kernels square Q, and give 2.5 here instead of 0.5."""
    x = torch.full((1, 1), 1e6, requires_grad=True)
    a = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    b = torch.tensor([[0.0, 0.0, 0.0, 2.0]])
    kat.rational(x, a, b).backward()
    assert x.grad.item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("shape", [(8,), (1, 1, 1, 8), (2, 0), (0,), (0, 16), (2, 0, 16)])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("impl", IMPLS)
def test_any_leading_shape_and_zero_gradients_without_elements(shape, rows, impl):
    leaves = [torch.randn(shape), torch.randn(rows, 6), torch.randn(rows, 4)]
    y = kat.rational(*[leaf.requires_grad_() for leaf in leaves], impl=impl)
    assert y.shape == shape
    for leaf, gradient in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert gradient.shape == leaf.shape
        assert bool(gradient.any()) == bool(y.numel())


def test_autocast_leaves_the_dtype_alone():
    x, a, b = random_case((4, 8), (1, 8), (5, 4), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert kat.rational(x, a, b).dtype == torch.float32
        assert kat.rational(x.bfloat16(), a, b).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "C"}, r"form must be one of .*'A', 'B'.*, got 'C'"),
        ({"impl": "cuda"}, "impl must be one of .* got 'cuda'"),
        ({"x": torch.zeros(2, 9)}, "9 channels are not divisible by num_groups=4"),
        ({"numerator": torch.zeros(1, 1)}, "degree m >= 1"),
        ({"numerator": torch.zeros(3, 6)}, r"got shapes \(2, 8\), \(3, 6\) and \(4, 4\)"),
        ({"numerator": torch.zeros(0, 6), "denominator": torch.zeros(0, 4)}, "with G groups"),
        ({"denominator": torch.zeros(1, 4, device="meta")}, "denominator is on meta"),
    ],
)
def test_bad_arguments_are_named(change, message):
    good = {
        "x": torch.zeros(2, 8),
        "numerator": torch.zeros(1, 6),
        "denominator": torch.zeros(4, 4),
    }
    with pytest.raises(ValueError, match=message):
        kat.rational(**{**good, **change})


@pytest.mark.parametrize(
    "x",
    [
        *(torch.zeros(2, 8).to(t) for t in (torch.long, torch.float8_e4m3fn)),
        torch.eye(8).to_sparse(),
    ],
)
def test_integer_fp8_and_sparse_inputs_are_type_errors(x):
    with pytest.raises(TypeError, match=str(x.dtype)):
        kat.rational(x, torch.zeros(1, 6), torch.zeros(8, 4))


@pytest.mark.parametrize("name", ["x", "v", "numerator", "denominator"])
def test_an_array_of_numpy_is_named(name):
    arguments = {"x": torch.ones(2, 8), "v": torch.ones(2, 8)}
    arguments |= {"numerator": torch.ones(1, 6), "denominator": torch.ones(8, 4)}
    arguments[name] = arguments[name].numpy()
    with pytest.raises(TypeError, match=f"{name} .* ndarray"):
        kat.gated_rational(**arguments)


def test_tensors_that_only_the_dispatcher_puts_right():
    """A lazily negated view, zeros without storage, a single channel whose stride is 0."""
    x, a, b = torch.randn(5, 8), torch.randn(1, 6), torch.randn(8, 4)
    negated = torch.complex(x, x).conj().imag
    assert negated.is_neg()
    assert torch.equal(kat.rational(negated, a, b), kat.rational(-x, a, b))
    x.requires_grad_()
    (dx,) = torch.autograd.grad(kat.rational(x, a, b), x, _zeros_without_storage(*x.shape))
    assert torch.equal(dx, torch.zeros_like(x))
    one = torch.tensor([0.0, 1.0, 1e30, torch.nan]).as_strided((4, 1), (1, 0))
    got = kat.rational(one, a, b[:1])
    torch.testing.assert_close(got, kat.rational(one, a, b[:1], impl="reference"), equal_nan=True)


def _zeros_without_storage(*shape):
    """As autograd makes them itself: of the sign of a determinant, which does not change."""
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(torch.eye(2), torch.ones(2, 2))
        zero = forward_ad.unpack_dual(torch.linalg.slogdet(moving).sign).tangent
    zeros = zero * torch.ones(shape)
    assert zeros.data_ptr() == 0
    return zeros


def test_torchs_counter_of_flops_has_formulas_for_training():
    """Forward 2m + 2n + 3 = 21 per element, as the paper says, backward 7m + 7n + 5 = 68."""
    x, layer = torch.randn(5, 16), kat.GRKANLinear(16, 3)
    with FlopCounterMode(display=False) as mode:
        layer(x).sum().backward()
    counts = {str(operator): count for operator, count in mode.get_flop_counts()["Global"].items()}
    assert counts.pop("kat.rational") == 5 * 16 * 21
    assert counts.pop("kat.rational_backward") == 5 * 16 * 68
    assert counts == {"aten.addmm": 2 * 5 * 16 * 3, "aten.mm": 2 * 2 * 5 * 16 * 3}
    x, v = x.requires_grad_(), torch.randn(5, 16, requires_grad=True)
    with FlopCounterMode(display=False) as mode:
        kat.gated_rational(x, v, *layer.act.parameters()).sum().backward()
    assert mode.get_total_flops() == 5 * 16 * (21 + 68)


def test_the_result_has_the_dtype_that_is_asked_for():
    x, a, b = torch.randn(5, 8), torch.randn(1, 6), torch.randn(8, 4)
    y = kat.rational(x, a, b, dtype=torch.bfloat16)
    assert torch.equal(y, kat.rational(x, a, b).bfloat16())

    class Function(torch.nn.Module):
        def forward(self, x):
            return kat.rational(x, a, b, dtype=torch.bfloat16)

    assert torch.equal(torch.fx.symbolic_trace(Function())(x), y)
    with pytest.raises(ValueError, match="int32"):
        kat.rational(x, a, b, dtype=torch.int32)
