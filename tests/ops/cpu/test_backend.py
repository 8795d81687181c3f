"""The CPU kernel: accuracy, sums, layouts, instruction sets, operators.

Accuracy: the kernel's error against the float64 reference is at most twice the error that the
reference makes in the dtype in which the kernel computes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import kat
from kat.ops import plain
from kat.ops.arguments import Rational
from kat.ops.cpu import backend as cpu
from kat.ops.cpu.build import BuildError, find_compiler
from kat.ops.operators import run_backward, run_forward
from tests.equality import assert_equal
from tests.marks import both_forms

try:
    find_compiler()
except BuildError as error:
    pytest.skip(f"no CPU kernel to test: {error}", allow_module_level=True)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEGREES = ((1, 0), (3, 2), (5, 4), (7, 6), (9, 8))
ROWS = ((1, 8), (8, 1), (8, 8), (1, 1))


def case(shape, rows, degree, dtype, form, seed=0):
    """grad, x, a, b: a fifth of x and a fifth of b are 0, and many b are negative.

    The coefficients fall off with their order, so that both forms are well conditioned: what
    remains is the rounding of the kernel's own steps.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    m, n = degree
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    x = normal(*shape)
    x[normal(*shape) > 0.85] = 0
    a = normal(rows[0], m + 1) / (1 + torch.arange(m + 1.0)) ** 2
    b = normal(rows[1], n) / (2.0 + torch.arange(n)) ** (2 if form == "A" else 3)
    b[normal(rows[1], n) > 0.85] = 0
    return normal(*shape).to(dtype), x.to(dtype), a.to(compute), b.to(compute)


def run(grad, x, a, b, form) -> dict[str, Tensor]:
    dx, da, db, _ = torch.ops.kat.rational_backward(grad, x, a, b, None, form=form)
    y = torch.ops.kat.rational(x, a, b, form=form)
    again, other = torch.empty_like(x), torch.empty_like(x)
    if x.numel():  # as blocks of rows call the kernel
        f = Rational(a, b, form)
        sums = cpu.backward(f, grad, x, dx=other, y=again)
        assert all(map(torch.equal, (other, *sums), (dx, da, db)))
        assert cpu.backward(f, grad, x, dx=other, coefficients=False) is None
        assert torch.equal(other, dx)
    return {"y": y, "recomputed y": again, "dx": dx, "da": da, "db": db}


def element_by_element(grad: Tensor, x: Tensor, a: Tensor, b: Tensor, form: str):
    """y, dx, and each element's terms of da and db: the reference, every element its own group."""
    channels, groups = x.shape[-1], max(len(a), len(b))
    rows = [c.expand(groups, -1).repeat_interleave(channels // groups, 0) for c in (a, b)]
    f = Rational(*(c.repeat(x.shape[:-1].numel(), 1) for c in rows), form)
    y = plain.forward(f, x.reshape(1, -1))
    dx, da, db, _ = plain.backward(f, grad.reshape(1, -1), x.reshape(1, -1))
    shapes = {"y": x.shape, "dx": x.shape, "da": (*x.shape, -1), "db": (*x.shape, b.shape[1])}
    return {name: t.view(shapes[name]) for name, t in zip(shapes, (y, dx, da, db), strict=True)}


def totals(terms: Tensor, rows: int) -> Tensor:
    """The terms of a coefficient's gradient summed for each of the coefficient's rows."""
    channels, count = terms.shape[-2:]
    return terms.reshape(terms.shape[:-2].numel(), rows, channels // rows, count).sum((0, 2))


def assert_as_accurate_as_plain(grad, x, a, b, form) -> None:
    """Every output's root mean square error is at most twice that of the plain formula.

    The plain error counts as at least one unit in the last place for y and dx, and for a sum as
    2.5 units of the root of its terms' squares: a sum's few roundings may by luck cancel in one
    order and not in another. float64, which no wider type checks, is allowed 8 times as much.
    """
    result = run(grad, x, a, b, form)
    exact = element_by_element(grad.double(), x.double(), a.double(), b.double(), form)
    plain = element_by_element(grad.to(a.dtype), x.to(a.dtype), a, b, form)
    eps = torch.finfo(a.dtype).eps * (8 if a.dtype == torch.float64 else 1)
    for name in ("y", "recomputed y", "dx"):
        true, rounded = exact[name.split()[-1]], plain[name.split()[-1]].to(x.dtype).double()
        assert result[name].dtype == x.dtype
        assert_at_most_twice(result[name], true, rounded, eps * true.norm())
    for name, coefficient in (("da", a), ("db", b)):
        rows = len(coefficient)
        unit = totals(exact[name] ** 2, rows).sqrt() + 1e-300
        true, rounded = totals(exact[name], rows) / unit, totals(plain[name], rows) / unit
        assert result[name].shape == coefficient.shape
        assert result[name].dtype == coefficient.dtype
        assert_at_most_twice(result[name] / unit, true, rounded, 2.5 * eps * unit.numel() ** 0.5)


def assert_at_most_twice(result: Tensor, true: Tensor, rounded: Tensor, floor: Tensor | float):
    error, plain_error = (result.double() - true).norm(), (rounded - true).norm()
    assert error <= 2 * max(plain_error, floor)


# ---- accuracy


@pytest.mark.parametrize("dtype", DTYPES)
@both_forms
@pytest.mark.parametrize("degree", DEGREES)
def test_as_accurate_as_plain_pytorch(degree, form, dtype, instruction_set):
    for rows in ROWS:
        assert_as_accurate_as_plain(*case((23, 8 * 24), rows, degree, dtype, form), form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_group", [1, 3, 24, 25, 131, 1100])
def test_any_group_size(per_group, dtype, instruction_set):
    for count in (1, 7, 61) if per_group < 100 else (3,):
        for rows in ((1, 8), (8, 8)):
            inputs = case((count, 8 * per_group), rows, (5, 4), dtype, "A")
            assert_as_accurate_as_plain(*inputs, "A")


@both_forms
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        *(((67, groups * each), groups) for groups in (1, 2, 7, 768) for each in (1, 5)),
        *(((count,), 1) for count in (1, 2, 997, 16384, 100003)),
    ],
)
def test_any_number_of_groups_and_elements(shape, groups, form, instruction_set):
    assert_as_accurate_as_plain(*case(shape, (1, groups), (5, 4), torch.float32, form), form)


@pytest.mark.slow
def test_long_sums_are_accurate():
    inputs = case((16, 197, 768), (1, 8), (5, 4), torch.float32, "A")
    assert_as_accurate_as_plain(*inputs, "A")


# ---- special values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_storage_is_rounded_to_nearest_even_for_every_value(dtype, instruction_set):
    """F(x) = x c over all 65536 numbers: subnormal, infinite and NaN ones too."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    for c in (1.0, 1.00390625, 0.7, 3.0, 1e-5):
        a = torch.tensor([[0.0, c]])
        y = torch.ops.kat.rational(x, a, torch.zeros(1, 0), form="A")
        assert torch.equal(y.isnan(), x.isnan())
        known = ~x.isnan()
        assert torch.equal(y[known], (x.float() * a[0, 1]).to(dtype)[known])
    payload = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    assert torch.ops.kat.rational(x, payload.expand(1, 6), torch.ones(1, 4), form="A").isnan().all()


# ---- layouts


def layouts(shape: tuple[int, ...]):
    """(name, make) of tensors of this shape whose memory is laid out in various ways."""
    count = len(shape)

    def permuted(order):
        inverse = [order.index(i) for i in range(count)]
        return lambda t: t.permute(order).contiguous().permute(inverse)

    yield "contiguous", lambda t: t
    yield "channels first", permuted([0, count - 1, *range(1, count - 1)])
    yield "channels outermost", permuted([count - 1, *range(count - 1)])
    yield "reversed", permuted(list(reversed(range(count))))
    yield "every second", lambda t: torch.stack([t, t], -1)[..., 0]
    yield "misaligned", lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(shape)
    yield "expanded", lambda t: t[:1].expand(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5, 7, 16), (2, 31, 33, 8)])
def test_any_layout_gives_the_same_in_the_layout_of_empty_like(shape, dtype, instruction_set):
    grad, x, a, b = case(shape, (1, 8), (5, 4), dtype, "A")
    for name, lay_out in layouts(shape):
        for grad_name, lay_out_grad in (("same", lay_out), ("contiguous", lambda t: t)):
            moved = lay_out(x)
            moved_grad = lay_out_grad(grad)
            result = run(moved_grad, moved, a, b, "A")
            expected = run(moved_grad.contiguous(), moved.contiguous(), a, b, "A")
            for key in ("y", "recomputed y", "dx"):
                assert torch.equal(result[key], expected[key]), (name, grad_name, key)
                assert result[key].stride() == torch.empty_like(moved).stride(), (name, key)
            for key in ("da", "db"):
                torch.testing.assert_close(result[key], expected[key], rtol=1e-5, atol=1e-3)


def test_neighbors_in_memory_are_left_alone(instruction_set, monkeypatch):
    """Outputs are written to their own elements only, whatever the tail of the vectors."""
    made = []

    def within_sevens(pattern, dtype=None):
        made.append(torch.full((pattern.numel() + 64,), 7.0))
        return made[-1][32:-32].view_as(pattern)

    for per_group in (1, 3, 25, 131):
        grad, x, a, b = case((5, 8 * per_group), (1, 8), (5, 4), torch.float32, "A")
        with monkeypatch.context() as changed:
            changed.setattr(torch, "empty_like", within_sevens)
            f = Rational(a, b)
            run_backward(f, grad, x, backend=cpu)
            y = run_forward(f, x, backend=cpu)
            again = torch.empty_like(x)
            cpu.backward(f, grad, x, dx=torch.empty_like(x), y=again)
        outputs = (x, x, x, x, a, b, a, b)  # dx and y twice, da, db
        assert sorted(len(whole) - 64 for whole in made) == sorted(t.numel() for t in outputs)
        for whole in made:
            assert (whole[:32] == 7).all()
            assert (whole[-32:] == 7).all()
            assert (whole[32:-32] != 7).any()
        torch.testing.assert_close(again, y)
        made.clear()


# ---- determinism


@pytest.mark.parametrize("shape", [(4, 197, 192), (2, 197, 768), (2, 8, 96, 96), (300, 25 * 8)])
@pytest.mark.parametrize("rows", ROWS)
def test_gradients_are_equal_bit_by_bit_for_any_number_of_threads(shape, rows, instruction_set):
    grad, x, a, b = case(shape, rows, (5, 4), torch.float32, "A")
    x[..., 7] *= torch.logspace(0, 30, x[..., 7].numel()).view(x.shape[:-1])
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 1, 3):
            torch.set_num_threads(number)
            results.append(torch.ops.kat.rational_backward(grad, x, a, b, None, form="A"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_equal(results[0], other)


# ---- the operators


@pytest.mark.slow
@both_forms
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(form, dtype):
    grad, x, a, b = case((2, 3, 16), (1, 8), (5, 4), dtype, form)
    for order, more in (((0, 1), {}), ((1, 0), {"dtype": torch.bfloat16})):
        one, other = x.movedim(*order), grad.movedim(*order)
        leaf = one.clone().requires_grad_()
        opcheck(torch.ops.kat.rational.default, (leaf, a, b), {"form": form, **more})
        for coefficients in (True, False):
            options = {"form": form, "coefficients": coefficients}
            opcheck(torch.ops.kat.rational_backward.default, (other, one, a, b, None), options)


def test_asking_for_the_kernel_never_falls_back():
    x, a, b = torch.zeros(2, 8), torch.ones(1, 6), torch.ones(8, 4)
    with pytest.raises(RuntimeError, match="degrees"):
        kat.rational(x, torch.ones(1, 18), b, impl="cpu")
    meta = [t.to("meta") for t in (x, a, b)]
    with pytest.raises(ValueError, match="meta"):
        kat.rational(*meta, impl="cpu")


def test_what_the_kernel_does_not_take_goes_to_the_reference():
    _grad, x, a, b = case((3, 8), (1, 8), (17, 4), torch.float64, "A")
    assert torch.equal(torch.ops.kat.rational(x, a, b), plain.forward(Rational(a, b), x))


@pytest.mark.parametrize("coefficients", [torch.float64, torch.bfloat16])
def test_coefficients_of_another_dtype(coefficients):
    grad, x, a, b = case((16, 8), (1, 8), (5, 4), torch.float32, "A")
    a, b = a.to(coefficients), b.to(coefficients)
    dx, *sums = torch.ops.kat.rational_backward(grad, x, a, b, None, form="A")
    same, *expected = torch.ops.kat.rational_backward(grad, x, a.float(), b.float(), None, form="A")
    assert torch.equal(dx, same)
    for one, other in zip(sums, expected, strict=True):
        assert torch.equal(one, other.to(coefficients))


def test_threads_may_call_at_once():
    from concurrent.futures import ThreadPoolExecutor

    grad, x, a, b = case((200, 192), (1, 8), (5, 4), torch.float32, "A")
    expected = torch.ops.kat.rational_backward(grad, x, a, b, None, form="A")
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(torch.ops.kat.rational_backward, grad, x, a, b, None, form="A")
            for _ in range(16)
        ]
    for call in calls:
        assert_equal(call.result(), expected)
