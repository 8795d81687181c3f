"""The GPU kernels without a GPU, against the reference in float64: interpreted, or emulated.

Triton reads TRITON_INTERPRET on import, so ``make test`` runs this file in processes of its own: by
Triton's interpreter, and as the code that Triton compiles (a part of it). Elsewhere it is skipped.

    TRITON_INTERPRET=1 pytest tests/ops/triton/interpreted.py -m "release or not release"
    pytest -p tests.ops.triton.emulated tests/ops/triton/interpreted.py
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
from triton import knobs
from triton.compiler import CompiledKernel
from triton.language import core
from triton.runtime import KernelInterface, driver, interpreter

import kat
from kat.ops import plain
from kat.ops.arguments import Rational
from kat.ops.operators import run_backward, run_forward
from kat.ops.triton import backend as gpu
from kat.ops.triton import kernels
from kat.ops.triton import launch as triton_launch
from tests.equality import assert_equal
from tests.marks import both_forms
from tests.oracle import Elements, assert_near, random_elements

if not triton_launch.INTERPRETED:
    reason = "interpreted and emulated in processes of their own: make test"
    pytest.skip(reason, allow_module_level=True)

NUMPY = tuple(map(int, numpy.__version__.split(".")[:2]))
pytestmark = pytest.mark.skipif(
    knobs.runtime.interpret and triton.__version__.startswith("3.6.") and NUMPY >= (2, 4),
    reason="the interpreter of Triton 3.6 does not work with numpy 2.4 and later",
)
RELEASE = pytest.mark.release
SLACK = {torch.bfloat16: 4.0}
"""Times the error of eager PyTorch that is allowed: 2, but the interpreter cuts off where it
should round to bfloat16, which doubles the error."""


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Every torch.empty is filled with NaN, so that nothing unwritten goes unnoticed."""
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, but no Inductor
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(autouse=True)
def _planned_again():
    """A test may patch what plans and compiled kernels depend on, which no key of theirs holds."""
    triton_launch.PLANS.clear()
    triton_launch.compiled.cache_clear()


@pytest.fixture(autouse=True, scope="session")
def _patched_once():
    """The interpreter patches the language at a launch, not again at each call of a function."""
    patch, nothing = interpreter._patch_lang, SimpleNamespace(restore=lambda: None)

    def patch_once(function):
        language = function.__globals__.get("tl", core)
        return patch(function) if core.is_builtin(language.load) else nothing

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(interpreter, "_patch_lang", patch_once)
        yield


def forward(x, a, b, v=None, form="A", **options):
    return run_forward(Rational(a, b, form), x, v, backend=gpu, **options)


def backward(grad, x, a, b, v=None, form="A", **options):
    """The gradients of x, a and b, and of v if there is one."""
    found = run_backward(Rational(a, b, form), grad, x, v, backend=gpu, **options)
    return found[:3] if v is None else found


def inputs(shape, rows=(1, 8), degree=(5, 4), dtype=torch.float32, seed=0):
    """grad, x, numerator and denominator; a third of the denominator is negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    a, b = normal(rows[0], degree[0] + 1), normal(rows[1], degree[1]) + 0.4
    return normal(*shape).to(dtype), normal(*shape).to(dtype), a, b


def check(grad, x, a, b, form="A"):
    """Check that each error, forward and backward, is at most twice the error of eager PyTorch."""
    y = forward(x, a, b, form=form)
    gradients = backward(grad, x, a, b, form=form)
    exact = outputs(*(t.double() for t in (grad, x, a, b)), form)
    eager = outputs(grad, x, a, b, form)
    assert_near((y, *gradients), exact, eager, SLACK.get(x.dtype, 2.0))
    assert y.stride() == gradients[0].stride() == torch.empty_like(x).stride()
    dx, *none = backward(grad, x, a, b, form=form, coefficients=False)
    assert none == [None, None]
    assert torch.equal(dx, gradients[0])
    assert dx.stride() == y.stride()


def assert_right(elements: Elements) -> None:
    """Every value and gradient is the exact one to rounding."""
    x, a, b = elements.x, elements.a, elements.b
    y = forward(x, a, b, form=elements.form)
    gradients = backward(elements.grad, x, a, b, form=elements.form)
    elements.assert_right((y, *gradients))
    dx, *_ = backward(elements.grad, x, a, b, form=elements.form, coefficients=False)
    assert torch.equal(dx, gradients[0])


def outputs(grad, x, a, b, form):
    f = Rational(a, b, form)
    dx, da, db, _ = plain.backward(f, grad, x)
    return plain.forward(f, x), dx, da, db


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_with_several_blocks_a_program(dtype, form):
    check(*inputs((2, 43, 96), dtype=dtype), form)


@both_forms
@pytest.mark.parametrize("degree", [(1, 0), (2, 3), pytest.param((7, 6), marks=RELEASE)])
def test_degrees(degree, form):
    check(*inputs((5, 24), rows=(1, 3), degree=degree), form)
    check(*inputs((5, 8), rows=(1, 1), degree=degree), form)


@pytest.mark.parametrize("rows", [(1, 1), (1, 4), (4, 1), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=RELEASE)])
def test_rows_shared_or_not(rows, dtype):
    check(*inputs((13, 96), rows=rows, dtype=dtype))


@pytest.mark.parametrize(
    ("positions", "channels"),
    [(1, 1), (13, 1), (13, 25), (1, 48), (13, 48), (1, 96), (13, 96),
     pytest.param(1, 25, marks=RELEASE)],
)  # fmt: skip
def test_sizes(positions, channels):
    check(*inputs((positions, 2 * channels), rows=(1, 2), dtype=torch.float16))


LAYOUTS = {
    "channels first": lambda t: t(2, 16, 3, 2).movedim(1, -1),
    "channels first, one image": lambda t: t(1, 16, 2, 2).movedim(1, -1),
    "transposed": lambda t: t(16, 7).t(),
    "positions swapped": lambda t: t(3, 5, 16).transpose(0, 1),
    "some channels of more": lambda t: t(5, 24)[:, 4:20],
    "every other row": lambda t: t(9, 16)[::2],
    "every other channel": lambda t: t(5, 32)[:, ::2],
    "one row, expanded": lambda t: t(1, 16).expand(5, 16),
    "not aligned to 16 bytes": lambda t: t(81)[1:].view(5, 16),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=RELEASE)])
def test_layouts(layout, dtype):
    torch.manual_seed(0)
    x = LAYOUTS[layout](lambda *size: torch.randn(size).to(dtype))
    _, _, a, b = inputs((1,), rows=(1, 8))
    check(torch.randn(x.shape).to(dtype), x, a, b)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(name, marks=() if name in ("transposed", "some channels of more") else RELEASE)
        for name in LAYOUTS
    ],
)
def test_layouts_beside_one_expanded_gradient(layout):
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn)
    _, _, a, b = inputs((1,), rows=(1, 8))
    check(torch.ones(1).expand(x.shape), x, a, b)


@pytest.mark.parametrize("rows", [(1, 4), (4, 4)])
@pytest.mark.parametrize("shape", [(3, 40), (2, 300, 12)])
@pytest.mark.parametrize("wide", [False, pytest.param(True, marks=RELEASE)])
def test_sharing_by_group(rows, shape, wide, monkeypatch):
    monkeypatch.setattr(triton_launch, "LONGEST_PERIOD", 0)
    if wide:
        monkeypatch.setattr(triton_launch, "INT32_ELEMENTS", 0)
    check(*inputs(shape, rows=rows))
    ran = [
        (launch.constants["FLAT"], launch.constants["WIDE"])
        for plan in triton_launch.PLANS.values()
        for launch in plan.launches
        if "FLAT" in launch.constants
    ]
    assert set(ran) == {(False, wide)}


def test_long_periods_are_shared_by_group():
    assert not triton_launch.Sharing.of(2 * 6 * 289, 3, 2 * 289, 4, 8).flat
    grad, x, a, b = inputs((2, 6, 17, 17), rows=(1, 3))
    check(grad.movedim(1, -1), x.movedim(1, -1), a, b)


def test_a_tensor_beyond_int32_is_shared_with_int64_offsets():
    small = triton_launch.Sharing.of(2**30, 8, 96, 2, 528)
    large = triton_launch.Sharing.of(2**31, 8, 96, 2, 528)
    assert not small.is_wide()
    assert large.is_wide()


@pytest.mark.skipif(knobs.runtime.interpret, reason="the interpreter runs all blocks")
@pytest.mark.parametrize(
    ("function", "width", "groups"),
    [(kat.rational, 768, 8), (kat.gated_rational, 768, 8), (kat.rational, 3, 1)],
)
def test_the_last_rows_of_more_elements_than_int32_counts(function, width, groups, monkeypatch):
    """In vectors of eight elements, and of one, of which int32 does not count all."""
    torch.set_deterministic_debug_mode("default")  # memory that nothing fills takes no space
    # Each program has one block, and the last three run.
    monkeypatch.setattr(triton_launch, "multiprocessors", lambda device: 2**31 - 1)
    monkeypatch.setattr(driver.active, "chosen", lambda grid: range(max(grid - 3, 1000), grid))
    x = torch.empty(2**31 // width + 100, width, dtype=torch.bfloat16)
    _, x[-3:], a, b = inputs((3, width), rows=(1, groups))
    others = (x.detach(),) if function is kat.gated_rational else ()

    def results(impl, *tensors):
        leaves = [t.detach().requires_grad_() for t in tensors]
        y = function(*leaves, a, b, impl=impl)
        return y, *torch.autograd.grad(y, leaves, tensors[0])

    rows = [t[-3:].double() if t.shape == x.shape else t.double() for t in (x, *others)]
    for got, want in zip(results("triton", x, *others), results("reference", *rows), strict=True):
        torch.testing.assert_close(got[-3:].double(), want[-3:], rtol=2**-6, atol=2**-6)


@pytest.mark.skipif(knobs.runtime.interpret, reason="nothing is compiled")
@pytest.mark.parametrize("vector", [1, 2, 4, 8])
@pytest.mark.parametrize(("count", "kind"), [(2**31 - 1, "i32"), (2**31, "i64")])
def test_the_number_of_vectors_has_64_bits_where_it_needs_them(count, kind, vector, monkeypatch):
    made, compile_kernel = [], triton_launch.compiled

    def compiled(*arguments, **constants):
        made.append(compile_kernel(*arguments, **constants))
        return made[-1]

    monkeypatch.setattr(triton_launch, "compiled", compiled)
    _, x, a, b = inputs((1, vector), rows=(1, 1), dtype=torch.bfloat16)
    share = triton_launch.Sharing.of(count * vector, 1, vector, x.element_size(), 4)
    assert (share.count, share.vector) == (count, vector)
    constants = triton_launch.constants(a, b, share, form="A", gated=False)
    numbers = (share.count, share.groups, share.run, 0)
    triton_launch.Launch.of(kernels.forward_kernel, (x, x, x, a, b), numbers, constants, 4)
    found = {name: made[0].src.signature[name] for name in ("count", "groups", "run", "gap")}
    assert found == {"count": kind, "groups": "i32", "run": "i32", "gap": "i32"}


@pytest.mark.skipif(knobs.runtime.interpret, reason="nothing is compiled")
@pytest.mark.parametrize(("registers", "programs"), [(40, 6), (64, 4), (66, 3), (80, 3)])
def test_as_many_programs_as_the_registers_allow(registers, programs, monkeypatch):
    """Of 65536 registers, each program takes 256 times those of a thread, a multiple of 8."""
    monkeypatch.setattr(driver.active, "registers", registers)
    kernels.forward_kernel.device_caches.clear()  # it is loaded again
    forward(*inputs((64, 256))[1:])
    assert driver.active.launches[-1].grid == programs


@pytest.mark.skipif(knobs.runtime.interpret, reason="nothing is compiled")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (KernelInterface, "warmup"),
        (CompiledKernel, "n_regs"),
        (CompiledKernel, "__getitem__"),
    ],
)
def test_triton_launches_where_one_of_its_private_names_is_gone(owner, name, monkeypatch):
    unreadable = property(None, lambda self, value: None)
    monkeypatch.setattr(owner, name, unreadable, raising=False)
    check(*inputs((13, 96)))
    plans = triton_launch.PLANS.values()
    assert plans
    assert not any(launch.run for plan in plans for launch in plan.launches)


@both_forms
def test_the_output_is_in_the_dtype_of_the_product_that_follows(form):
    """Under autocast: x in float32, F(x) and its gradient in 16 bits, F(x) rounded once."""
    dtype = torch.float16 if knobs.runtime.interpret else torch.bfloat16  # which it truncates
    grad, x, a, b = inputs((37, 48))
    rounded = forward(x, a, b, form=form).to(dtype)
    assert torch.equal(forward(x, a, b, form=form, dtype=dtype), rounded)
    gradients = backward(grad.to(dtype), x, a, b, form=form)
    assert {found.dtype for found in gradients} == {torch.float32}
    assert_equal(gradients, backward(grad.to(dtype).float(), x, a, b, form=form))


@pytest.mark.skipif(knobs.runtime.interpret, reason="nothing is compiled")
def test_a_capture_without_a_warm_up_names_it(monkeypatch):
    grad, x, a, b = (t.requires_grad_() for t in inputs((5, 24), rows=(1, 3), degree=(4, 3)))
    monkeypatch.setattr(kat.ops.api, "run_forward", partial(run_forward, backend=gpu))
    monkeypatch.setattr(kat.ops.api, "gradients", partial(run_backward, backend=gpu))
    with capture(monkeypatch), pytest.raises(RuntimeError, match=r"call kat\.ops\.warmup"):
        forward(x, a, b)
    kat.ops.warmup(x, a, b)
    with capture(monkeypatch):
        forward(x, a, b)
        backward(grad, x, a, b)


@contextmanager
def capture(monkeypatch):
    """As while a CUDA graph is captured."""
    with monkeypatch.context() as changed:
        for name in ("is_available", "is_current_stream_capturing"):
            changed.setattr(torch.cuda, name, lambda: True)
        yield changed


@pytest.mark.parametrize("gated", [False, True])
def test_without_gradients_of_coefficients_no_sum_is_made(gated):
    grad, x, a, b = inputs((5, 16), rows=(1, 2))
    v = x.flip(0) if gated else None
    dx, da, db, *dv = backward(grad, x, a, b, v, coefficients=False)
    assert (da, db) == (None, None)
    (plan,) = triton_launch.PLANS.values()
    assert len(plan.launches) == 2
    assert {math.prod(shape) for shape in plan.sums} == {0}
    with_sums = backward(grad, x, a, b, v)
    assert torch.equal(dx, with_sums[0])
    assert all(map(torch.equal, dv, with_sums[3:]))


def test_gradients_are_the_same_bits_again():
    case = inputs((101, 96), dtype=torch.float16)
    first = backward(*case)
    again = backward(*case)
    assert_equal(first, again)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_coefficients_of_other_dtypes(dtype):
    grad, x, a, b = inputs((5, 16), rows=(1, 2))
    check(grad, x, a.to(dtype), b.to(dtype))


def test_float32_gradient_of_bfloat16_x():
    grad, x, a, b = inputs((5, 32), rows=(1, 2), dtype=torch.bfloat16)
    check(grad.float() + 1e-3, x, a, b)


def test_public_call_differentiates_once():
    grad, x, a, b = (t.requires_grad_() for t in inputs((5, 16), rows=(1, 2)))
    y = kat.rational(x, a, b, impl="triton")
    gradients = torch.autograd.grad(y, (x, a, b), grad, create_graph=True)
    expected = backward(*(t.detach() for t in (grad, x, a, b)))
    assert_equal(gradients, expected)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradients[0].sum().backward()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@both_forms
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=RELEASE)],
)
def test_enormous_and_infinite_x(dtype, form):
    """A program that meets one does its share again; the others do not."""
    grad, x, a, b = inputs((1, 43, 96), dtype=dtype)
    for place, value in enumerate((1e6, -1e20, 1e38, math.inf)):
        x[0, place, 11 * place] = value
    y = forward(x, a, b, form=form)
    gradients = backward(grad, x, a, b, form=form)
    dx, *_ = backward(grad, x, a, b, form=form, coefficients=False)
    assert torch.equal(dx, gradients[0])
    exact = outputs(*(t.double() for t in (grad, x, a, b)), form)
    rounding = max(2e-5, 2 * torch.finfo(dtype).eps)
    for got, want in zip((y, *gradients), exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=rounding, atol=1e-4 + rounding)


@pytest.mark.skipif(knobs.runtime.interpret, reason="no instruction is counted")
def test_the_forward_pass_computes_again_no_more_than_the_blocks_of_enormous_x():
    """Of four programs, one has rows 0, 16, 32 and 48, each in a block of its own."""
    counts = []
    for rows in (slice(0), slice(1), slice(None, None, 16)):
        _, x, a, b = inputs((64, 256))
        x[rows, 0] = 1e6
        forward(x, a, b)
        issued = driver.active.launches[-1].issued
        counts.append(sum(count for opcode, count in issued.items() if ".f64" in opcode))
    none, one, four = counts
    assert (none, four) == (0, 4 * one)
    assert one > 0


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("rows", [8, pytest.param(1, marks=RELEASE)])
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=RELEASE)],
)
@pytest.mark.parametrize(
    ("degree", "form"),
    [
        ((5, 4), "A"),
        ((3, 2), "B"),
        pytest.param((7, 6), "A", marks=RELEASE),
        pytest.param((7, 7), "B", marks=RELEASE),
        pytest.param((2, 0), "B", marks=RELEASE),
    ],
)
def test_random_sizes_of_x_and_of_the_output_gradient(degree, form, dtype, rows):
    """A function each, and then one for many, with the sums of their terms."""
    count = rows if rows > 1 else 60
    whole = dtype != torch.bfloat16  # whose subnormal numbers the interpreter gets wrong
    elements = random_elements(degree, form, dtype, count, rows=rows, subnormal=whole)
    assert_right(elements)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_sums_of_lanes_that_overflow_float32_and_cancel():
    x = torch.ones(64, 96)
    grad = torch.full_like(x, 2.0**123)
    grad.view(-1, 2, 128)[:, 1] *= -1  # every other 32 lanes
    _, da, db = backward(grad, x, torch.ones(1, 2), torch.ones(1, 1))
    assert da.tolist() == [[0, 0]]
    assert db.tolist() == [[0]]


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("degree", [(5, 4), pytest.param((7, 7), marks=RELEASE)])
@pytest.mark.parametrize("rows", [8, pytest.param(1, marks=RELEASE)])
def test_large_output_gradients_where_powers_of_x_underflow(rows, degree, dtype, form):
    """In plain arithmetic: no x is enormous and no gradient tiny."""
    exponent = math.log2(torch.finfo(dtype).smallest_normal)
    roots = (2.05, 2.2, 4.1, 4.3, 8.2, 3.1, 6.3, 1.5)  # x^2, x^4, ... are a bit too small
    x = [(-1) ** k * 2.0 ** (exponent / root) for k, root in enumerate(roots)]
    grad = [0.3 * 2.0 ** (-0.9 * exponent)] * len(x)
    a, b = [[1.0 + i for i in range(degree[0] + 1)]] * rows, [[0.5] * degree[1]] * rows
    assert_right(Elements(x, grad, a, b, form, dtype))


@pytest.mark.parametrize(
    "b", [[0.0, 0, -1, 0], [0.0, 1e-20, 0, 0], [0.0, 0, 0, -1], [0.0] * 4, [-1.0, 0, 0, 1]]
)
@pytest.mark.parametrize("grad", [1.0, pytest.param(-0.5, marks=RELEASE)])
def test_the_sign_of_a_sum_that_underflows(b, grad):
    x = [1e-30, -1e-30, 0.0, -0.0, 1.0, -1.0]
    a = [[0.5, 1.0, 1.0, 1.0, 1.0, 1.0]] * len(x)
    assert_right(Elements(x, [grad] * len(x), a, [b] * len(x), "B", torch.float32))


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_nan_hides_no_enormous_x_and_keeps_inside_the_tensors():
    x = torch.tensor([[math.nan, 1e30, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    a, b = torch.tensor([[0.0, 1, 0, 0, 0, 1]]), torch.tensor([[0.0, 0, 0, 1]])
    dx, _, _ = backward(torch.ones_like(x), x, a, b)
    assert dx[0, 0].isnan()
    assert dx[0, 1].item() == pytest.approx(1.0)
    a, b = math.nan * a, math.nan * b
    assert all(t.isnan().all() for t in (forward(x, a, b), *backward(x, x, a, b)))
