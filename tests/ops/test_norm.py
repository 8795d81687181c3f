"""F(LayerNorm(x)): values, gradients, layouts, extremes, operators and transforms."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.nn import functional

import kat
from kat.ops import layer_norm_rational, norm
from tests import kernels
from tests.oracle import assert_near, random_case, random_elements

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
KERNEL = pytest.mark.skipif(bool(kernels.problem()), reason=kernels.problem())
BACKENDS = ("reference", pytest.param("cpu", marks=KERNEL))
NAMES = ("y", "dx", "dweight", "dbias", "da", "db")


def case(shape, rows=(1, 8), degree=(5, 4), dtype=torch.float64, seed=0, offset=0.0):
    """x, weight and bias of x's dtype, coefficients in at least float32, an output gradient."""
    x, a, b = random_case(shape, rows, degree, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    weight, bias = (torch.randn(shape[-1], generator=generator).to(dtype) for _ in range(2))
    grad = torch.randn(shape, generator=generator).to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return (x + offset).to(dtype), weight, bias, a.to(exact), b.to(exact), grad


def results(call, tensors, grad):
    """Value and gradients."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = call(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype)))


def two_operators(x, weight, bias, a, b, form="A", eps=1e-5):
    """What eager PyTorch makes of a LayerNorm and a rational."""
    return kat.rational(functional.layer_norm(x, x.shape[-1:], weight, bias, eps), a, b, form=form)


def by_hand(x, weight, bias, a, b, form="A", eps=1e-5):
    """The definition, for float64."""
    centered = x - x.mean(-1, keepdim=True)
    centered = centered - centered.mean(-1, keepdim=True)
    z = centered / ((centered**2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias
    return kat.rational(z, a, b, form=form, impl="reference")


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize(
    ("shape", "rows", "degree", "offset"),
    [
        ((3, 7, 24), (1, 8), (5, 4), 0.0),
        ((5, 1536), (8, 1), (5, 4), 0.0),
        ((2000, 16), (1, 1), (3, 2), 0.0),
        ((300, 192), (1, 8), (5, 4), -20.0),
        ((33, 10), (5, 5), (9, 8), 0.0),
        ((9, 3070), (1, 1), (5, 4), 0.0),
        ((40, 5), (1, 1), (5, 4), 0.0),
        ((24,), (8, 8), (1, 0), 0.0),
    ],
)
def test_errors_are_at_most_twice_those_of_two_operators(
    impl, dtype, form, shape, rows, degree, offset
):
    *tensors, grad = case(shape, rows, degree, dtype, offset=offset)

    def call(*inputs):
        return layer_norm_rational(*inputs, form=form, impl=impl)

    got = results(call, tensors, grad)
    doubles = [t.double() for t in (*tensors, grad)]
    exact = results(lambda *inputs: by_hand(*inputs, form), doubles[:-1], doubles[-1])
    if dtype == torch.float64:  # the definition itself is the oracle
        for ours, true in zip(got, exact, strict=True):
            size = true.abs().max().item() if true.numel() else 0.0
            torch.testing.assert_close(ours, true, rtol=1e-10, atol=1e-11 * size)
    else:
        eager = results(lambda *inputs: two_operators(*inputs, form), tensors, grad)
        assert_near(got, exact, eager, names=NAMES)
    assert all(result.is_contiguous() for result in got)


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_mean_costs_no_digits(impl, dtype):
    *tensors, grad = case((64, 768), dtype=dtype, offset=1e4)
    got = results(lambda *inputs: layer_norm_rational(*inputs, impl=impl), tensors, grad)
    doubles = [t.double() for t in (*tensors, grad)]
    exact = results(by_hand, doubles[:-1], doubles[-1])
    if impl == "reference":  # as exact as PyTorch's own
        assert_near(got, exact, results(two_operators, tensors, grad), names=NAMES)
    else:
        bound = 1e-5 if dtype == torch.float32 else 1e-10
        for ours, true in zip(got, exact, strict=True):
            assert (ours.double() - true).abs().max() <= bound * true.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("impl", "value"),
    [
        ("reference", 0.0),
        ("reference", 1.0),  # PyTorch's mean of larger ones is rounded
        pytest.param("cpu", 0.0, marks=KERNEL),
        pytest.param("cpu", -3e4, marks=KERNEL),
    ],
)
def test_constant_rows_give_f_of_the_bias(impl, dtype, value):
    _, weight, bias, a, b, grad = case((5, 24), dtype=dtype)
    tensors = (torch.full((5, 24), value, dtype=dtype), weight, bias, a, b)
    y, dx, d_weight, d_bias, *_ = results(
        lambda *inputs: layer_norm_rational(*inputs, impl=impl), tensors, grad
    )
    f = kat.rational(bias, a, b, impl="reference")
    torch.testing.assert_close(
        y, f.expand(5, 24), rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=0
    )
    assert not d_weight.any()
    assert dx.isfinite().all()
    assert d_bias.isfinite().all()


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_row_that_is_not_finite_is_nan_and_no_other(impl, bad):
    x, *parameters, _ = case((3, 24), dtype=torch.float32)
    x[1, 5] = bad
    y = layer_norm_rational(x, *parameters, impl=impl)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@KERNEL
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "channels", "groups"),
    [(7, 24, 8), (50, 6, 2), (3, 100, 4), (40, 5, 1), (9, 1600, 1), (2, 70_000, 7), (6000, 3, 3)],
)
def test_all_instruction_sets(instruction_set, dtype, rows, channels, groups):
    """With weights of all sizes, so that powers of some z overflow."""
    *tensors, grad = case((rows, channels), (1, groups), (5, 4), dtype)
    tensors[1][::3] *= 1e4
    got = results(lambda *inputs: layer_norm_rational(*inputs, impl="cpu"), tensors, grad)
    doubles = [t.double() for t in (*tensors, grad)]
    exact = results(by_hand, doubles[:-1], doubles[-1])
    rough = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-4)
    for name, ours, true in zip(NAMES, got, exact, strict=True):
        true = true.clamp(-torch.finfo(ours.dtype).max, torch.finfo(ours.dtype).max)
        ours = ours.clamp(-torch.finfo(ours.dtype).max, torch.finfo(ours.dtype).max).double()
        assert (ours - true).abs().max() <= rough * true.abs().max(), name


@KERNEL
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(513, 96), (2300, 768)])
def test_gradients_are_the_same_bits_for_any_number_of_threads(dtype, shape):
    *tensors, grad = case(shape, dtype=dtype)

    def call():
        return results(lambda *inputs: layer_norm_rational(*inputs, impl="cpu"), tensors, grad)

    before, expected = torch.get_num_threads(), call()
    try:
        torch.set_num_threads(2)
        assert all(torch.equal(a, b) for a, b in zip(call(), expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [40, 1])
def test_z_and_gradients_of_all_sizes(impl, form, dtype, rows):
    """Without a weight z is the bias, whose gradient is that of z: elements known exactly."""
    elements = random_elements((5, 4), form, dtype, 40, rows=rows)
    channels = elements.x.shape[1]
    x = torch.randn(1, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensors = (x, torch.zeros(channels, dtype=dtype), elements.x[0], elements.a, elements.b)
    y, dx, _, d_bias, da, db = results(
        lambda *inputs: layer_norm_rational(*inputs, form=form, impl=impl), tensors, elements.grad
    )
    elements.assert_right((y, d_bias[None], da, db))
    assert not dx.nan_to_num(nan=0.0).any()  # infinity times the weight is NaN


@pytest.mark.parametrize("form", ["A", "B"])
def test_derivatives_of_first_and_second_order(form):
    *tensors, _ = case((3, 4), (1, 2), (3, 2))
    leaves = [t.requires_grad_() for t in tensors]
    for impl in ("reference", None):

        def call(*inputs, impl=impl):
            return layer_norm_rational(*inputs, form=form, impl=impl)

        assert gradcheck(call, leaves)
        assert gradgradcheck(call, leaves)


FAST_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize(
    "checks",
    [FAST_CHECKS, pytest.param(("test_aot_dispatch_dynamic",), marks=pytest.mark.slow)],
)
def test_the_operators_pass_the_checks_of_torch_library(checks):
    *tensors, grad = case((3, 8), (1, 4), (3, 2), torch.float32)
    x = torch.randn(3, 16)[:, ::2]
    leaves = [t.detach().requires_grad_() for t in (x, *tensors[1:])]
    operators = torch.ops.kat
    opcheck(operators.layer_norm_rational.default, (*leaves, 1e-5, "A"), test_utils=checks)
    inputs = (grad, *leaves, 1e-5, "B")
    opcheck(operators.layer_norm_rational_backward.default, inputs, test_utils=checks)
    inputs = (grad, *(t.detach() for t in leaves), 1e-5, "A")
    opcheck(operators.layer_norm_rational_backward_recompute.default, inputs, test_utils=checks)


def test_gradients_with_the_value_are_the_same_bits():
    for dtype in DTYPES:
        *tensors, grad = case((70, 48), dtype=dtype)
        expected = results(layer_norm_rational, tensors, grad)
        *gradients, y = norm.layer_norm_rational_backward_recompute(grad, *tensors, 1e-5, "A")
        with torch.no_grad():
            again = norm.layer_norm_rational_backward_recompute(grad, *tensors, 1e-5, "A")
        torch.testing.assert_close((y, again[-1]), (expected[0], expected[0]))
        for ours, recorded, true in zip(again[:-1], gradients, expected[1:], strict=True):
            assert torch.equal(ours, true)
            error = (recorded - true).abs().max() / true.abs().max()  # by other operations
            assert error <= 64 * torch.finfo(dtype).eps


def test_transforms_give_the_reference():
    *tensors, grad = case((3, 8), (1, 4), (3, 2))
    x, *parameters = tensors
    one_by_one = torch.stack([layer_norm_rational(row, *parameters) for row in x])
    mapped = torch.func.vmap(layer_norm_rational, (0, None, None, None, None))(x, *parameters)
    torch.testing.assert_close(mapped, one_by_one)
    tangent = torch.func.jvp(lambda x: layer_norm_rational(x, *parameters), (x,), (grad,))[1]
    expected = torch.func.jvp(lambda x: by_hand(x, *parameters), (x,), (grad,))[1]
    torch.testing.assert_close(tangent, expected)
    leaves = [t.requires_grad_() for t in tensors]
    grads = torch.stack([grad, 2 * grad])
    y = layer_norm_rational(*leaves)
    batched = torch.autograd.grad(y, leaves, grads, is_grads_batched=True, retain_graph=True)
    for got, single in zip(batched, torch.autograd.grad(y, leaves, 2 * grad), strict=True):
        torch.testing.assert_close(got[1], single)


def test_compiled_it_is_one_operator():
    *tensors, grad = case((3, 5, 16), dtype=torch.float32)
    compiled = torch.compile(layer_norm_rational, backend="aot_eager", fullgraph=True)
    for got, eager in zip(
        results(compiled, tensors, grad), results(layer_norm_rational, tensors, grad), strict=True
    ):
        torch.testing.assert_close(got, eager)


def test_an_exported_program_decomposes_into_plain_operations():
    class Layer(torch.nn.Module):
        def forward(self, x, weight, bias, a, b):
            return layer_norm_rational(x, weight, bias, a, b, eps=1e-3)

    *inputs, _ = case((3, 8), (1, 4), (3, 2), torch.float32)
    program = torch.export.export(Layer(), tuple(inputs))
    plain = program.run_decompositions(kat.ops.decompositions())
    assert not any("kat" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(*inputs), layer_norm_rational(*inputs, eps=1e-3))
    traced = torch.fx.symbolic_trace(Layer())
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        layer_norm_rational
    ]
    torch.testing.assert_close(traced(*inputs), layer_norm_rational(*inputs, eps=1e-3))


def test_x_alone_is_kept():
    tensors = [t.requires_grad_() for t in case((64, 32), dtype=torch.float32)[:-1]]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer_norm_rational(*tensors)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in tensors}


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (8,), (1, 1, 8)])
def test_empty_and_single_rows(shape):
    *tensors, grad = case(shape, (1, 4), (3, 2), torch.float32)
    got = results(layer_norm_rational, tensors, grad)
    expected = results(lambda *i: layer_norm_rational(*i, impl="reference"), tensors, grad)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_other_layouts_and_dtypes_of_parameters():
    x, weight, bias, a, b, grad = case((4, 6, 8), (1, 4), dtype=torch.float32)
    turned = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    strided = x.repeat_interleave(2, -1)[..., ::2]
    expected = results(layer_norm_rational, (x, weight, bias, a, b), grad)
    for other in (turned, strided):
        got = results(layer_norm_rational, (other, weight, bias, a, b), grad)
        assert all(torch.equal(ours, true) for ours, true in zip(got, expected, strict=True))
    mixed = results(layer_norm_rational, (x.bfloat16(), weight, bias.half(), a.half(), b), grad)
    assert [t.dtype for t in mixed] == [
        torch.bfloat16, torch.bfloat16, torch.float32, torch.float16, torch.float16, torch.float32,
    ]  # fmt: skip


def test_bad_arguments_are_named():
    x, weight, bias, a, b, _ = case((3, 8), (1, 4), (3, 2), torch.float32)
    for error, message, arguments, options in (
        (ValueError, r"weight must have the shape of a row of x, \(8,\)", (x, bias[:4], bias), {}),
        (ValueError, r"bias must have .* got \(1, 8\)", (x, weight, bias[None]), {}),
        (TypeError, "bias must be floating point", (x, weight, bias.int()), {}),
        (ValueError, "weight must be dense", (x, weight.to_sparse(), bias), {}),
        (ValueError, "form must be 'A' or 'B'", (x, weight, bias), {"form": "C"}),
        (ValueError, "impl must be None or one of", (x, weight, bias), {"impl": "cuda"}),
    ):
        with pytest.raises(error, match=message):
            layer_norm_rational(*arguments, a, b, **options)
    with pytest.raises(RuntimeError, match=r"does not work inside torch\.func"):
        torch.func.vmap(lambda x: layer_norm_rational(x, weight, bias, a, b, impl="cpu"))(x)


@KERNEL
def test_without_a_kernel_for_both_the_kernel_of_f_runs(monkeypatch):
    *tensors, grad = case((3, 8), (1, 4), (3, 2), torch.float32)
    expected = results(lambda *i: layer_norm_rational(*i, impl="reference"), tensors, grad)
    monkeypatch.setattr(norm.cpu, "supports", lambda x, numerator, denominator: False)
    called = []
    original = kat.ops.cpu.backend.forward_into
    monkeypatch.setattr(
        kat.ops.cpu.backend, "forward_into", lambda *i: called.append(i) or original(*i)
    )
    got = results(layer_norm_rational, tensors, grad)
    assert called
    for ours, true in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-5)


@KERNEL
def test_degrees_beyond_the_kernel_are_right():
    *tensors, _ = case((4, 8), (1, 4), (18, 2), torch.float32)
    with pytest.raises(RuntimeError, match="the kernel supports degrees up to 16"):
        layer_norm_rational(*tensors, impl="cpu")
    expected = layer_norm_rational(*tensors, impl="reference")
    torch.testing.assert_close(layer_norm_rational(*tensors), expected)
