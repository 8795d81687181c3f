"""The first call on a GPU compares the kernels with the reference: the compiled ones, emulated.

pytest -p tests.ops.triton.emulated tests/ops/triton/checked.py
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from triton import knobs
from triton.runtime import driver

import kat
from kat.errors import BackendUnavailable
from kat.ops import operators
from kat.ops.triton import backend as gpu
from kat.ops.triton import launch, selfcheck
from tests.equality import assert_equal
from tests.marks import both_forms
from tests.ops.triton.interpreted import _planned_again as _planned_again
from tests.ops.triton.interpreted import capture, inputs
from tests.ptx.memory import Region

if knobs.runtime.interpret:
    pytest.skip("emulated in a process of its own: make test", allow_module_level=True)

FOLDER = Path(launch.__file__).parent
MISTAKES = {
    "value": ("y = p * r\n            even = y", "y = p * r * 1.001\n            even = y"),
    "slope": ("neg.f32 opposite, $3", "mov.b32 opposite, $3"),
    "coefficients": ("odd if j % 2 else even", "even"),
    "large x": ("result = 1.0 / q", "result = 1.001 / q"),
    "second block": ("range(start, count, step)", "range(start, start + 1, step)"),
    "last block": ("(position < count)[:, None]", "(position < count - 1)[:, None]"),
}
"""Lines of the kernels, and what is wrong in the place of each."""


@pytest.fixture(autouse=True)
def _first_call(monkeypatch):
    """Nothing is compared yet, and the GPU's tensors are on the CPU."""
    monkeypatch.setenv("KAT_GPU_CHECK", "on")
    monkeypatch.setitem(operators.KERNELS, "cpu", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a test")
    selfcheck.problem.cache_clear()
    gpu.warn_once.cache_clear()


@pytest.fixture
def mistaken(tmp_path, monkeypatch):
    """Makes a mistake in the kernels."""

    def make(line, instead):
        names = ("arithmetic", "kernels")
        for name in names:
            text = (FOLDER / f"{name}.py").read_text().replace(line, instead)
            text = re.sub(r"kat\.ops\.triton\.arithmetic", "wrong_arithmetic", text)
            (tmp_path / f"wrong_{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        for name in names:
            monkeypatch.delitem(sys.modules, f"wrong_{name}", raising=False)
        monkeypatch.setattr(launch, "triton_kernels", importlib.import_module("wrong_kernels"))

    return make


def results(tensors, grad, form, impl=None):
    """y and all gradients, of F(x), or of F(x) v if there are four tensors."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    function = kat.rational if len(leaves) == 3 else kat.gated_rational
    y = function(*leaves, form=form, impl=impl)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad))


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
def test_right_kernels_are_compared_once(dtype, form, gated):
    grad, x, a, b = inputs((5, 96), dtype=dtype)
    tensors = (x, x.flip(0), a, b) if gated else (x, a, b)
    state = torch.get_rng_state()
    counts = []
    for _ in range(2):
        before = len(driver.active.launches)
        results(tensors, grad, form)
        counts.append(len(driver.active.launches) - before)
    assert counts == [8, 4]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_kernels_are_named_once_and_the_reference_runs(mistake, mistaken):
    mistaken(*MISTAKES[mistake])
    grad, *tensors = inputs((5, 96))
    with pytest.warns(UserWarning, match=r"float32, form A.* wrong .*GPU of a test, .*Triton 3"):
        found = results(tensors, grad, "A")
    launched = len(driver.active.launches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = results([t[:3] if len(t) == 5 else t for t in tensors], grad[:3], "A")
        compiled = torch.compile(kat.rational, backend="eager")(*tensors)
    assert len(driver.active.launches) == launched
    expected = results(tensors, grad, "A", impl="reference")
    assert_equal(found, expected)
    assert torch.equal(again[0], expected[0][:3])
    assert torch.equal(compiled, expected[0])
    with pytest.raises(BackendUnavailable, match="wrong"):
        kat.rational(*tensors, impl="triton")


def test_a_kernel_that_writes_beyond_the_end_is_named(mistaken, monkeypatch):
    regions = Region.of

    def unwatched(tensors):
        return replace(regions(tensors), inside=None)

    monkeypatch.setattr(Region, "of", unwatched)
    mistaken("(position < count)[:, None]", "(position < count + 1)[:, None]")
    _, *tensors = inputs((5, 96))
    with pytest.warns(UserWarning, match="wrong"):
        kat.rational(*tensors)


def test_the_dtype_of_the_output_is_compared_apart(mistaken):
    """As under autocast: x in float32, F(x) and its gradient in bfloat16."""
    wrong = "mask & (y_ptr.dtype.element_ty == x_ptr.dtype.element_ty)"
    mistaken("ys, mask, LANES, V)", f"ys, {wrong}, LANES, V)")
    grad, *tensors = inputs((5, 96))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results(tensors, grad, "A")
    with pytest.warns(UserWarning, match=r"float32 to torch\.bfloat16.* wrong"):
        y = kat.rational(*tensors, dtype=torch.bfloat16)
    assert torch.equal(y, kat.rational(*tensors, impl="reference").bfloat16())
    with pytest.raises(BackendUnavailable, match="wrong"):
        kat.rational(*tensors, impl="triton", dtype=torch.bfloat16)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("dtype", "out"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.float16, torch.float16),
    ],
)
def test_right_kernels_of_other_pairs_of_dtypes_pass(dtype, out, gated):
    kind = (torch.device("cpu"), dtype, out, "B", (3, 2), gated)
    assert selfcheck.largest_error(launch, *kind) <= 1


def test_a_kernel_that_does_not_compile_gives_its_error(mistaken):
    mistaken("y = p * r\n            even = y", "y = no_such_name\n            even = y")
    grad, *tensors = inputs((5, 96))
    with pytest.warns(UserWarning, match=r"do not run \(CompilationError.* on GPU of a test"):
        found = results(tensors, grad, "A")
    expected = results(tensors, grad, "A", impl="reference")
    assert_equal(found, expected)


def test_a_gate_is_compared_apart(mistaken):
    mistaken("y = y * vs[k]", "y = y * 1.0")
    grad, x, a, b = inputs((5, 96))
    with pytest.warns(UserWarning, match="gated"):
        found = results((x, x.flip(0), a, b), grad, "A")
    expected = results((x, x.flip(0), a, b), grad, "A", impl="reference")
    assert_equal(found, expected)


def test_the_switch_leaves_the_comparison_out(mistaken, monkeypatch):
    monkeypatch.setenv("KAT_GPU_CHECK", "off")
    mistaken(*MISTAKES["value"])
    _, *tensors = inputs((5, 96))
    y = kat.rational(*tensors)
    assert not torch.allclose(y, kat.rational(*tensors, impl="reference"), rtol=1e-4, atol=0)


def test_a_capture_compares_nothing_after_a_warm_up(monkeypatch):
    _, x, a, b = inputs((5, 24), rows=(1, 3), degree=(4, 2))
    with capture(monkeypatch) as changed:
        changed.setattr(selfcheck, "largest_error", None)  # a copy to the GPU breaks the capture
        with pytest.raises(RuntimeError, match=r"call kat\.ops\.warmup"):
            kat.rational(x, a, b)
    kat.ops.warmup(x, a, b)
    launched = len(driver.active.launches)
    with capture(monkeypatch):
        kat.rational(x, a, b)
    assert len(driver.active.launches) == launched + 1
