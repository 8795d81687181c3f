"""The GPU backend requested by name where it cannot run, and without Triton."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import kat
from kat.errors import BackendUnavailable
from kat.ops import operators
from kat.ops.triton import backend, selfcheck
from tests.marks import most_at_night

ROOT = Path(__file__).resolve().parents[3]


def test_requested_by_name_on_the_cpu():
    x, a, b = torch.randn(3, 16), torch.ones(1, 6), torch.zeros(8, 4)
    if importlib.util.find_spec("triton") is None:
        with pytest.raises(BackendUnavailable, match="pip install triton"):
            kat.rational(x, a, b, impl="triton")
    else:
        with pytest.raises(ValueError, match="x on a CUDA device, but x is on cpu"):
            kat.rational(x, a, b, impl="triton")


@pytest.mark.parametrize(
    ("dtype", "degree", "reason"),
    [(torch.float64, (5, 4), r"support torch\.float64"), (torch.float32, (3, 8), "up to 7")],
)
def test_what_the_kernels_do_not_take_runs_by_the_reference(dtype, degree, reason, monkeypatch):
    x = torch.full((2, 3), 1.5, dtype=dtype, requires_grad=True)
    a, b = torch.ones(1, degree[0] + 1), torch.ones(1, degree[1])
    with pytest.raises(BackendUnavailable, match=reason):
        kat.rational(x, a, b, impl="triton")
    backend.warn_once.cache_clear()
    monkeypatch.setattr(backend, "load", lambda: (object(), ""))  # as where Triton runs
    monkeypatch.setitem(operators.KERNELS, "cpu", backend)
    with pytest.warns(UserWarning, match=rf"{reason}.* impl='reference'"):
        y = kat.rational(x, a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (dx,) = torch.autograd.grad(y.sum(), x)
    expected = kat.rational(x, a, b, impl="reference")
    assert torch.equal(y, expected)
    torch.testing.assert_close(dx, torch.autograd.grad(expected.sum(), x)[0])


@pytest.mark.parametrize(
    ("told", "programs"),
    [
        ({"max_threads_per_multi_processor": 1024, "regs_per_multiprocessor": 65536}, 4),
        ({"max_threads_per_multi_processor": 2048, "regs_per_multiprocessor": 65536}, 5),
        ({"max_threads_per_multi_processor": 2048, "regs_per_multiprocessor": 131072}, 8),
        ({}, 5),
    ],
)
def test_a_program_has_256_threads_and_the_registers_of_each(told, programs, monkeypatch):
    """46 registers of the kernel count as 48."""
    launch = pytest.importorskip("kat.ops.triton.launch", exc_type=ImportError)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**told))
    assert launch.resident(SimpleNamespace(n_regs=46), torch.device("cuda")) == programs


FAILURES = [
    RuntimeError("Triton Error [CUDA]: device kernel image is invalid\nmore"),
    AssertionError(),
]
FATAL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
    torch.AcceleratorError("CUDA error: misaligned address"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]


def first_call(error, monkeypatch):
    """The result of the first call's check, of kernels that raise an error."""
    pytest.importorskip("triton")
    monkeypatch.setattr(selfcheck, "largest_error", Mock(side_effect=error))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a test")
    selfcheck.problem.cache_clear()
    kind = (torch.device("cuda"), torch.float32, torch.bfloat16, "A", (5, 4), False)
    return selfcheck.problem(None, *kind)


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_an_error_of_compilation_or_launch_is_the_reason_for_the_reference(error, monkeypatch):
    found = first_call(error, monkeypatch)
    first = str(error).partition("\n")[0] or "AssertionError"
    assert f"do not run ({type(error).__name__}: {first}) on GPU of a test, Triton" in found
    assert "\n" not in found


@pytest.mark.parametrize("error", FATAL, ids=str)
def test_no_memory_and_an_illegal_access_are_raised_as_they_are(error, monkeypatch):
    with pytest.raises(type(error)) as caught:
        first_call(error, monkeypatch)
    assert caught.value is error


def test_an_output_written_before_the_last_input_is_read_has_a_register_of_its_own():
    """Inline assembly: a compiler may give other outputs the register of an input."""
    found = 0
    for path in sorted((ROOT / "kat/ops/triton").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                "inline_asm_elementwise"
            ):
                code, constraints = (argument.value for argument in node.args[:2])
                found += 1
                _check_outputs(code.split(";"), constraints.split(","))
    assert found == 3


def _check_outputs(statements: list[str], constraints: list[str]) -> None:
    inputs = {f"${i}" for i, kind in enumerate(constraints) if not kind.startswith("=")}
    for number, statement in enumerate(statements):
        written = re.match(r"\s*(?:@\w+ )?[\w.]+ \$(\d)", statement)
        later = set(re.findall(r"\$\d", " ".join(statements[number + 1 :])))
        if written and later & inputs:
            assert constraints[int(written[1])].startswith("=&"), statement


WITHOUT_TRITON = "import sys; sys.modules['triton'] = None\n"  # its import fails
ON_SYSTEM = "import kat; from kat.ops import operators; sys.platform = {!r}\n"
ON_A_GPU = """
import torch

torch.cuda.is_available = lambda: True
"""
BOTH_CALLS = """
import warnings
import torch, kat
from kat.errors import BackendUnavailable
from kat.ops import operators
from kat.ops.arguments import Rational
from kat.ops.triton import backend

example = torch.randn(3, 16), torch.ones(1, 6), torch.zeros(8, 4)
try:
    kat.rational(*example, impl="triton")
except BackendUnavailable as error:
    print(error)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    operators.KERNELS["cpu"] = backend
    x, f = example[0], Rational(*example[1:])
    y = operators.run_forward(f, x)
    *gradients, _ = operators.run_backward(f, torch.ones_like(x), x)
assert torch.equal(y, kat.rational(*example, impl="reference"))
assert [g.shape for g in gradients] == [tensor.shape for tensor in example]
for warning in caught:
    print(warning.message)
"""


def refusal_and_warning(setup: str, **environment: str) -> list[str]:
    """The error of an explicit request, and the warning of a call for which the reference runs."""
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "TRITON_INTERPRET")}
    command, variables = [sys.executable, "-c", setup + BOTH_CALLS], {**kept, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refusal, warning = done.stdout.splitlines()
    assert refusal.startswith("impl='triton' is unavailable: ")
    assert "runs as plain PyTorch on this GPU" in warning
    return [refusal, warning]


@pytest.mark.slow
@pytest.mark.parametrize(("system", "package"), [("linux", "triton"), ("win32", "triton-windows")])
def test_without_triton_the_reference_runs_after_one_warning(system, package):
    for line in refusal_and_warning(WITHOUT_TRITON + ON_SYSTEM.format(system)):
        assert "import of triton halted" in line
        assert re.search(rf"pip install {package}[.\s]", line + " ")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize(
    ("compiler", "problem"),
    most_at_night(
        [
            ({}, "Failed to find C compiler"),
            ({"CC": shutil.which("false")}, "returned non-zero exit status 1"),  # without headers
        ],
        [({}, "Failed to find C compiler")],
    ),
)
def test_without_a_c_compiler_the_reference_runs_after_one_warning(compiler, problem, tmp_path):
    """Triton itself fails, where torch says that there is a GPU: it compiles before it looks."""
    folder = str(tmp_path)
    empty = dict.fromkeys(("PATH", "TRITON_CACHE_DIR", "TRITON_LIBCUDA_PATH"), folder)
    for line in refusal_and_warning(ON_A_GPU, **empty, **compiler):
        assert problem in line
        assert "install a C compiler and the headers of Python" in line
