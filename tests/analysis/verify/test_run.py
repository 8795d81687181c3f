"""``kat verify``: right backends pass, wrong ones are caught and named."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import kat
from kat.analysis.verify import run as verify_module
from kat.analysis.verify.backends import (
    Backend,
    choose_backends,
    compiled_check,
    consistency_checks,
    present_backends,
)
from kat.analysis.verify.cases import (
    DTYPES,
    Grid,
    cases,
    check_grid,
    coefficient_sets,
    make_case,
    ranges,
    second_order_cases,
    smallest_subnormal,
)
from kat.analysis.verify.compare import first_order_results, second_order_result
from kat.analysis.verify.exact import first_order, second_order
from kat.analysis.verify.model_cases import model_cases, record_inputs
from kat.analysis.verify.run import Job, case_jobs, verify
from kat.errors import InputError
from tests.analysis.verify.small import MODERATE, SMALL, wrong
from tests.hooks import forward_pre_hooks


@pytest.mark.slow
def test_every_backend_here_is_right_at_moderate_sizes():
    found = verify(MODERATE, compiled=False)
    assert found.failures() == []
    names = {result.backend for result in found.results}
    assert "reference" in names
    assert names >= {backend.name for backend in present_backends()[0]}
    quantities = {result.quantity for result in found.results}
    assert quantities == {"y", "dx", "da", "db", "da (sum)", "db (sum)", "second derivatives"}
    assert {result.dtype for result in found.results} == set(DTYPES)


@pytest.mark.slow
@pytest.mark.parametrize("degree", [(3, 2), (7, 6), (9, 8)])
def test_form_b_and_other_degrees(degree):
    """From 1e-6 on: that subnormal s keeps its sign is more than rounding."""
    x = np.array([[1e-6, -3e-5], [0.3, -0.7], [2.5, -4.5], [30.0, -80.0]])
    names = ["tiny", "small", "usual", "large"]
    for (name, (a, b)), dtype in itertools.product(coefficient_sets(degree, "B").items(), DTYPES):
        case = make_case("B", dtype, name, a, b, x, names, special=False)
        exact = first_order(case.all_x(), case.grad, case.a, case.b, "B", case.arithmetic)
        for backend in present_backends()[0]:
            for result in first_order_results(backend, case, exact):
                assert result.passed, str(result)


def test_a_polynomial_has_no_denominator_to_compare():
    x, names = np.array([[0.3, -0.7], [2.5, -4.5]]), ["small", "usual"]
    a, b = (0.1, 1.0, -0.5, 0.25), ()
    case = make_case("A", "float32", "given", a, b, x, names, special=False)
    (backend,) = (one for one in present_backends()[0] if one.name == "reference")
    exact = first_order(case.all_x(), case.grad, case.a, case.b, "A", case.arithmetic)
    found = first_order_results(backend, case, exact)
    assert {result.quantity for result in found} == {"y", "dx", "da", "da (sum)"}
    again = second_order(case.x.ravel(), case.a, case.b, "A", case.arithmetic)
    assert all(result.passed for result in [*found, second_order_result(backend, case, again)])


@pytest.mark.parametrize("name", ["forms", "degrees", "dtypes"])
def test_nothing_to_compare_is_no_success(name):
    empty = replace(SMALL, **{name: ()})
    with pytest.raises(InputError, match=f"{name} are empty: nothing would be compared"):
        check_grid(empty)
    with pytest.raises(InputError, match="there is no case, or no backend"):
        verify(empty)
    with pytest.raises(InputError, match="there is no case, or no backend"):
        verify(SMALL, [])
    with pytest.raises(InputError, match="backends are empty"):
        choose_backends([], *present_backends())


def with_zero(case):
    """A case with x = 0 in place of its smallest x."""
    x = case.x.copy()
    x[0, 0] = 0
    return replace(case, x=x)


@pytest.mark.parametrize(
    ("changes", "caught"),
    [
        ({"y": lambda x, t: t * (1 + 3e-6)}, {"y"}),
        ({"y": lambda x, t: torch.where(x == 0, torch.nan, t)}, {"y"}),
        ({"dx": lambda x, t: torch.where(x.abs() > 100, -t, t)}, {"dx"}),
        ({"dx": lambda x, t: torch.where(x.abs() < 1e-30, 0, t)}, {"dx"}),
        ({"da": lambda x, t: t * (1 + 1e-3)}, {"da", "da (sum)"}),
        ({"db": lambda x, t: t.roll(1, dims=1)}, {"db", "db (sum)"}),
        ({"db": lambda x, t: -t}, {"db", "db (sum)"}),
    ],
)
def test_a_wrong_backend_is_caught_and_named(changes, caught):
    case = with_zero(next(cases(SMALL)))
    exact = first_order(case.all_x(), case.grad, case.a, case.b, case.form, case.arithmetic)
    results = first_order_results(wrong(**changes), case, exact)
    failed = {r.quantity: str(r) for r in results if not r.passed}
    assert set(failed) == caught
    for line in failed.values():
        assert line.startswith("wrong: ")
        assert "form A, degree 5/4, float32, coefficients random" in line


def test_the_line_of_a_failure_says_where_what_and_how_much():
    found = verify(
        SMALL, [wrong(dx=lambda x, t: torch.where(x.abs() > 100, -t, t))], compiled=False
    )
    (result,) = (result for result in found.results if not result.passed)
    line = str(result)
    for part in (
        "wrong: dx",
        "in 1 of 11 ranges",
        "from 1e+02",
        "worst dx at x = ",
        "got ",
        "exact ",
        "times",
    ):
        assert part in line
    worst = result.worst
    assert worst.got == pytest.approx(-worst.exact, rel=1e-5)
    assert abs(worst.got - worst.exact) / worst.tolerance == pytest.approx(worst.ratio)
    assert not found.passed
    assert found.failures() == [line]


def test_a_nan_must_stay_one():
    c = next(cases(SMALL))
    a, b = np.array(c.a), np.array(c.b)
    case = make_case(c.form, c.dtype, c.coefficients, a, b, c.x, c.ranges, special=True)
    exact = first_order(case.all_x(), case.grad, case.a, case.b, case.form, case.arithmetic)
    hides = wrong(y=lambda x, t: torch.where(x.isnan(), 0, t))
    y = next(r for r in first_order_results(hides, case, exact) if r.quantity == "y")
    assert y.ratios[y.ranges.index("nan")] == np.inf
    plain = next(r for r in first_order_results(wrong(), case, exact) if r.quantity == "y")
    assert plain.ratios[plain.ranges.index("nan")] == 0


def test_flushing_subnormal_numbers_to_zero_fails():
    tiny = torch.finfo(torch.float32).tiny
    found = verify(SMALL, [wrong(y=lambda x, t: torch.where(t.abs() < tiny, 0, t))], compiled=False)
    assert found.passed  # a_0 is not 0 here, so y is no subnormal number
    x = np.array([[1e-40, -1e-41]])
    a, b = np.array([0.0, 1.0]), np.array([0.1])
    case = make_case("A", "float32", "slope 1", a, b, x, ["subnormal"], special=False)
    exact = first_order(case.all_x(), case.grad, case.a, case.b, "A", case.arithmetic)
    flushed = wrong(y=lambda x, t: torch.where(t.abs() < tiny, 0, t))
    y = next(r for r in first_order_results(flushed, case, exact) if r.quantity == "y")
    assert not y.passed
    assert all(r.passed for r in first_order_results(wrong(), case, exact))


def test_beyond_the_maximum_infinity_is_right_and_another_sign_is_not():
    x = np.array([[1e30, 3e38]])
    a, b = np.array([0.0, 1e6]), np.array([0.0])
    case = make_case("A", "float32", "steep", a, b, x, ["large"], special=False)
    exact = first_order(case.all_x(), case.grad, case.a, case.b, "A", case.arithmetic)

    def y_of(change):
        backend = Backend(
            "changed", lambda x, a, b, form: change(x * a[:, 1] + 0 * a[:, 0] + 0 * b[:, 0])
        )
        return next(r for r in first_order_results(backend, case, exact) if r.quantity == "y")

    assert y_of(lambda y: y).passed
    assert not y_of(lambda y: -y).passed
    assert not y_of(lambda y: y.clamp(max=1e38)).passed


def test_wrong_second_derivatives_are_caught():
    class Once(torch.autograd.Function):
        """The right gradient for x, taken as a constant when it is differentiated again."""

        @staticmethod
        def forward(ctx, x, a, b, form):
            ctx.save_for_backward(x, a, b)
            ctx.form = form
            return kat.rational(x, a, b, form=form, impl="reference")

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                x, a, b = leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
                y = kat.rational(x, a, b, form=ctx.form, impl="reference")
            constant = torch.autograd.grad(y, leaves, grad)
            zero = sum(t.sum() * 0 for t in ctx.saved_tensors)
            return *(t + zero for t in constant), None

    found = verify(SMALL, [Backend("constant", Once.apply)], compiled=False)
    assert {r.quantity for r in found.results if not r.passed} == {"second derivatives"}
    assert "constant: second derivatives, form A" in found.failures()[0]


def test_a_backend_that_raises_has_failed():
    def broken(x, a, b, form):
        raise RuntimeError("no kernel image")

    (check,) = consistency_checks([Backend("broken", broken)], ["float32"])
    assert check.passed is False
    assert "raised RuntimeError: no kernel image" in check.detail
    case = next(cases(SMALL))
    found = verify([Job(case)], [Backend("broken", broken)], compiled=False)
    name = f"broken: form {case.form}, degree {case.degree}, {case.dtype}"
    assert f"{name}: raised RuntimeError: no kernel image" in found.failures()


def test_a_broken_kernel_is_no_absent_one(monkeypatch):
    def broken(*_):
        raise RuntimeError("torch's threads failed")

    if "cpu" not in {backend.name for backend in present_backends()[0]}:
        pytest.skip("the C++ kernel is missing")
    monkeypatch.setattr("kat.ops.cpu.backend.forward", broken)
    found, absent = present_backends()
    assert "cpu" in {backend.name for backend in found}
    assert "cpu" not in absent


def test_gradients_that_change_from_run_to_run_are_caught():
    runs = itertools.count()
    unsteady = wrong(da=lambda x, t: t * (1 + 1e-6 * next(runs)))
    (check,) = consistency_checks([unsteady], ["float32"])
    assert check.passed is False
    assert "form A, degree 5/4, float32" in check.detail


def test_a_default_of_other_bits_is_caught(monkeypatch):
    monkeypatch.setattr("kat.analysis.verify.backends.call", lambda impl: wrong().function)
    slightly = wrong(y=lambda x, t: t * (1 + 1e-6))
    checks = consistency_checks([replace(slightly, name="cpu")], ["float32"])
    assert [check.passed for check in checks] == [True, False]


def test_the_compiled_operator_is_compared(monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compiled.append(options) or function
    )
    assert compiled_check("cpu", ["A", "B"], [(3, 2), (9, 8)], ["float16", "float64"]).passed
    assert len([options for options in compiled if options]) == 2 * 2 * 2
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: wrong(y=lambda x, t: t + 1).function
        if options else function
    )  # fmt: skip
    assert compiled_check("cpu", ["A"], [(3, 2)], ["float32"]).passed is False


def test_without_a_compiler_the_check_says_why_it_was_not_made(monkeypatch):
    def no_compiler(function, **_):
        raise RuntimeError("no working C++ compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", no_compiler)
    check = compiled_check("cpu", ["A"], [(3, 2)], ["float32"])
    assert check.passed is None
    assert check.detail.endswith("no working C++ compiler")


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranges_cover_every_size(dtype):
    intervals = ranges(dtype)
    info = torch.finfo(DTYPES[dtype])
    assert intervals[0][0] == smallest_subnormal(DTYPES[dtype])
    assert torch.tensor(intervals[0][0], dtype=torch.float64).to(DTYPES[dtype]) > 0
    assert intervals[-1][1] == info.max
    assert all(one[1] == two[0] for one, two in itertools.pairwise(intervals))
    for decade in range(-6, 38):
        if info.tiny < 10.0**decade and 10.0 ** (decade + 1) < info.max:
            assert (float(f"1e{decade}"), float(f"1e{decade + 1}")) in intervals


@pytest.mark.slow
def test_the_full_grid_is_what_it_says():
    grid = Grid(points=2)
    found = list(cases(grid))
    assert {(c.form, c.degree, c.dtype) for c in found} == set(
        itertools.product("AB", grid.degrees, DTYPES)
    )
    for case in found:
        assert np.isfinite(case.x).all()
        assert case.x.max() > 0 > case.x.min()
        assert max(map(abs, (*case.a, *case.b))) <= 1e6
    largest = {c.dtype: abs(c.x).max() for c in found}
    assert largest == {name: torch.finfo(dtype).max for name, dtype in DTYPES.items()}
    presets = {c.coefficients for c in found if c.degree == (5, 4)}
    assert presets >= {"gelu", "silu", "relu", "identity", "random", "large", "trained", "zero b_n"}
    assert any(0.0 in c.b for c in found if c.coefficients == "trained")
    assert {c.dtype for c in second_order_cases(grid)} == {"float32", "float64"}


def test_the_grid_is_the_same_again():
    one, other = list(cases(MODERATE)), list(cases(MODERATE))
    assert all(np.array_equal(a.x, b.x) and a.a == b.a for a, b in zip(one, other, strict=True))
    moved = list(cases(replace(MODERATE, seed=1)))
    assert not np.array_equal(one[0].x, moved[0].x)


def test_a_model_is_verified_on_what_its_rationals_see():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), kat.GroupRational(4), nn.Linear(8, 2))
    nn.init.normal_(model[1].weight_denominator)
    batches = [torch.randn(5, 6), 3 * torch.randn(5, 6)]
    (inputs,) = record_inputs(model, batches)
    seen = torch.cat([model[0](batch) for batch in batches]).detach().reshape(10, 4, 2)
    np.testing.assert_array_equal(inputs.low, seen.amin((0, 2)).double().numpy())
    np.testing.assert_array_equal(inputs.high, seen.amax((0, 2)).double().numpy())
    assert forward_pre_hooks(model[1]) == 0

    found = list(model_cases(model, [inputs], ["float32", "bfloat16"]))
    assert len(found) == 4 * 2
    third = next(c for c in found if c.coefficients == "1 group 2" and c.dtype == "float32")
    assert (third.x.min(), third.x.max()) == (inputs.low[2], inputs.high[2])
    assert third.b == tuple(model[1].weight_denominator[2].tolist())
    jobs = case_jobs(found)
    assert {(job.order, job.case.dtype) for job in jobs} == {
        (1, "float32"), (1, "bfloat16"), (2, "float32"),
    }  # fmt: skip
    verified = verify(jobs, compiled=False)
    assert verified.failures() == []
    assert "second derivatives" in {result.quantity for result in verified.results}


def test_models_that_cannot_be_verified():
    with pytest.raises(InputError, match="no rational"):
        record_inputs(nn.Linear(2, 2), [torch.ones(1, 2)])
    with pytest.raises(InputError, match="inputs of 0 are not finite"):
        record_inputs(nn.Sequential(kat.GroupRational(2)), [torch.full((1, 2), torch.nan)])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; get it with: pip install triton",
)
def test_the_gpu_kernels_interpreted(monkeypatch):
    triton = importlib.metadata.version("triton")
    if triton.startswith("3.6.") and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 does not work with numpy 2.4 and later")
    tiny = replace(SMALL, degrees=((3, 2),), dtypes=("bfloat16",), stride=6, subnormal=False)
    monkeypatch.setattr(verify_module, "INTERPRETED", tiny)
    found = verify(tiny, [], interpreter=True, compiled=False)
    assert {result.backend for result in found.results} == {"interpreted triton"}
    assert found.failures() == []
