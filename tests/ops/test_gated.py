"""The gate F(x) v: values, gradients, layouts, extremes, operators and transforms."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

import kat
from tests.equality import assert_equal
from tests.kernels import each_backend, needs_kernel
from tests.marks import both_forms
from tests.oracle import assert_near, random_case, random_elements, rational_numpy

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _case(shape, rows, degree, dtype=torch.float64, seed=0):
    """x, v, coefficients and an output gradient; the coefficients in at least float32."""
    x, a, b = random_case(shape, rows, degree, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    v, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return x.to(dtype), v, a.to(exact), b.to(exact), grad


def _results(call, tensors, grad):
    """Value and gradients."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = call(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype)))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@both_forms
@pytest.mark.parametrize(
    ("shape", "rows", "degree"),
    [((3, 7, 24), (1, 8), (5, 4)), ((5, 1536), (8, 1), (5, 4)), ((33, 10), (5, 5), (9, 8))],
)
def test_errors_are_at_most_twice_those_of_plain_operations(dtype, form, shape, rows, degree):
    *tensors, grad = _case(shape, rows, degree, dtype)

    def found(impl, tensors, grad):
        return _results(partial(kat.gated_rational, form=form, impl=impl), tensors, grad)

    got, other = (found(impl, tensors, grad) for impl in ("cpu", "reference"))
    if dtype == torch.float64:  # the reference itself is the oracle
        torch.testing.assert_close(got, other, rtol=1e-11, atol=1e-12 * grad.numel())
    else:
        exact = found("reference", [t.double() for t in tensors], grad.double())
        assert_near(got, exact, other, names=("y", "dx", "dv", "da", "db"))
    assert all(result.is_contiguous() for result in got)


def test_the_reference_is_f_times_v():
    x, v, a, b, _ = _case((4, 6), (2, 2), (3, 2))
    for form in ("A", "B"):
        expected = rational_numpy(x.numpy(), a.numpy(), b.numpy(), form) * v.numpy()
        got = kat.gated_rational(x, v, a, b, form=form, impl="reference")
        torch.testing.assert_close(got, torch.from_numpy(expected))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "channels", "groups"), [(7, 24, 8), (3, 100, 4), (40, 5, 1), (2, 70_000, 7)]
)
def test_halves_of_one_tensor_give_what_copies_give(instruction_set, dtype, rows, channels, groups):
    """With x of all sizes, some of whose powers overflow, in rows that lie apart."""
    x, v, a, b, grad = _case((rows, channels), (1, groups), (5, 4), dtype)
    x[::2, ::3] *= 1e4
    packed = torch.cat([v, x], 1).requires_grad_()
    second, first = packed.chunk(2, dim=1)
    leaves = [t.requires_grad_() for t in (x, v, a, b)]
    of_copies = kat.gated_rational(*leaves, impl="cpu")
    of_halves = kat.gated_rational(first, second, a, b, impl="cpu")
    assert torch.equal(of_halves, of_copies)
    dx, dv, da, db = torch.autograd.grad(of_copies, leaves, grad)
    d_packed, da_of_halves, db_of_halves = torch.autograd.grad(of_halves, (packed, a, b), grad)
    assert torch.equal(d_packed, torch.cat([dv, dx], 1))
    scale = [1e-4 * t.abs().max().item() for t in (da, db)]
    torch.testing.assert_close(da_of_halves, da, rtol=1e-4, atol=scale[0])
    torch.testing.assert_close(db_of_halves, db, rtol=1e-4, atol=scale[1])


def of_elements(elements):
    """v and an output gradient whose product is the gradient of F that the elements have."""
    gradient, dtype = elements.grad.double(), elements.dtype
    middle = gradient.frexp().exponent // 2
    v, grad = torch.ldexp(torch.ones_like(gradient), middle), torch.ldexp(gradient, -middle)
    assert torch.equal(v.to(dtype).double(), v)
    assert torch.equal(grad.to(dtype).double(), grad)
    return v.to(dtype), grad.to(dtype)


@each_backend
@both_forms
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [40, 1])
def test_x_and_gradients_of_all_sizes(impl, form, dtype, rows):
    """The gradient of F, go v, is that of elements known exactly; v is a power of two."""
    elements = random_elements((5, 4), form, dtype, 40, rows=rows)
    v, grad = of_elements(elements)
    x, a, b = elements.x, elements.a, elements.b
    y, dx, dv, da, db = _results(
        lambda *inputs: kat.gated_rational(*inputs, form=form, impl=impl), (x, v, a, b), grad
    )
    f = kat.rational(x, a, b, form=form, impl=impl)
    elements.assert_right((f, dx, da, db))
    f = kat.rational(x.double(), a.double(), b.double(), form=form, impl="reference")
    for got, true in ((y, f * v.double()), (dv, f * grad.double())):
        true = true.to(dtype)
        torch.testing.assert_close(got, true, rtol=1e-4, atol=2 * torch.finfo(dtype).tiny)


@both_forms
def test_derivatives_of_first_and_second_order(form):
    x, v, a, b, _ = _case((2, 4), (1, 2), (3, 2))
    leaves = [t.requires_grad_() for t in (x, v, a, b)]
    for impl in ("reference", None):
        call = partial(kat.gated_rational, form=form, impl=impl)
        assert gradcheck(call, leaves)
        assert gradgradcheck(call, leaves)


def test_the_operators_pass_the_checks_of_torch_library():
    _, _, a, b, grad = _case((3, 8), (1, 4), (3, 2), torch.float32)
    operators, (first, second) = torch.ops.kat, torch.randn(3, 16).chunk(2, dim=-1)
    leaves = [t.detach().requires_grad_() for t in (first, a, b, second)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(operators.rational.default, leaves, test_utils=checks)
    for coefficients in (True, False):
        options = {"form": "B", "coefficients": coefficients}
        backward = operators.rational_backward.default
        opcheck(backward, (grad, *leaves), options, test_utils=checks)


def test_transforms_give_the_reference():
    x, v, a, b, grad = _case((3, 8), (1, 4), (3, 2))
    one_by_one = torch.stack([kat.gated_rational(*pair, a, b) for pair in zip(x, v, strict=True)])
    mapped = torch.func.vmap(kat.gated_rational, (0, 0, None, None))(x, v, a, b)
    torch.testing.assert_close(mapped, one_by_one)
    tangent = torch.func.jvp(lambda v: kat.gated_rational(x, v, a, b), (v,), (grad,))[1]
    torch.testing.assert_close(tangent, kat.gated_rational(x, grad, a, b))
    leaves = [t.requires_grad_() for t in (x, v, a, b)]
    grads = torch.stack([grad, 2 * grad])
    y = kat.gated_rational(*leaves)
    batched = torch.autograd.grad(y, leaves, grads, is_grads_batched=True, retain_graph=True)
    for got, single in zip(batched, torch.autograd.grad(y, leaves, 2 * grad), strict=True):
        torch.testing.assert_close(got[1], single)


def test_compiled_it_is_one_operator():
    x, v, a, b, grad = _case((3, 5, 16), (1, 8), (5, 4), torch.float32)
    compiled = torch.compile(kat.gated_rational, backend="aot_eager", fullgraph=True)
    got, eager = (_results(call, (x, v, a, b), grad) for call in (compiled, kat.gated_rational))
    torch.testing.assert_close(got, eager)


def test_an_exported_program_decomposes_into_plain_operations():
    class Gate(torch.nn.Module):
        def forward(self, x, v, a, b):
            return kat.rational(x, a, b, v, dtype=torch.bfloat16)

    *inputs, _ = _case((3, 8), (1, 4), (3, 2), torch.float32)
    program = torch.export.export(Gate(), tuple(inputs))
    plain = program.run_decompositions(kat.ops.decompositions())
    assert not any("kat" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(*inputs), kat.gated_rational(*inputs).bfloat16())
    traced = torch.fx.symbolic_trace(Gate())
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        kat.rational
    ]


def test_only_x_and_v_are_kept():
    x, v, a, b, _ = _case((64, 32), (1, 8), (5, 4), torch.float32)
    packed = torch.cat([x, v], 1).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        kat.gated_rational(*packed.chunk(2, dim=1), a.requires_grad_(), b.requires_grad_())
    assert {t.untyped_storage().data_ptr() for t in kept} == {
        t.untyped_storage().data_ptr() for t in (packed, a, b)
    }


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (8,)])
def test_empty_and_single_rows(shape):
    x, v = torch.randn(shape), torch.randn(shape)
    *tensors, grad = x, v, torch.randn(1, 4), torch.randn(4, 2), torch.ones(shape)
    got = _results(kat.gated_rational, tensors, grad)
    expected = _results(lambda *i: kat.gated_rational(*i, impl="reference"), tensors, grad)
    torch.testing.assert_close(got, expected)


def test_bad_arguments_are_named():
    x, v, a, b, _ = _case((3, 8), (1, 4), (3, 2), torch.float32)
    for error, message, arguments, options in (
        (ValueError, r"v must have x's shape \(3, 8\), .* got \(3, 4\)", (x, v[:, :4], a, b), {}),
        (ValueError, "form must be one of", (x, v, a, b), {"form": "C"}),
    ):
        with pytest.raises(error, match=message):
            kat.gated_rational(*arguments, **options)
    with pytest.raises(RuntimeError, match="inside torch"):
        torch.func.vmap(lambda x, v: kat.gated_rational(x, v, a, b, impl="cpu"))(x, v)


@needs_kernel
def test_degrees_beyond_the_kernel_and_other_layouts_are_right():
    x, v, a, b, grad = _case((4, 6, 8), (1, 4), (18, 2), torch.float32)
    with pytest.raises(RuntimeError, match="degrees"):
        kat.gated_rational(x, v, a, b, impl="cpu")
    torch.testing.assert_close(
        kat.gated_rational(x, v, a, b), kat.gated_rational(x, v, a, b, impl="reference")
    )
    a = a[:, :6]
    turned = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    strided = v.repeat_interleave(2, -1)[..., ::2]
    got = _results(kat.gated_rational, (turned, strided, a, b), grad)
    assert_equal(got, _results(kat.gated_rational, (x, v, a, b), grad))
