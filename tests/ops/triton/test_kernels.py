"""The GPU kernels without a GPU: interpreted, and compiled."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; get it with: pip install triton",
)


def run(*arguments: str, **environment: str) -> None:
    variables = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]


@needs_triton
@pytest.mark.parametrize(
    ("cases", "marker"),
    [
        ("interpreted.py", "not release"),
        pytest.param("interpreted.py", "release", marks=pytest.mark.release),
        ("interpreted_gated.py", "not release"),
        pytest.param("interpreted_gated.py", "release", marks=pytest.mark.release),
    ],
)
def test_interpreted_kernels_against_float64(cases, marker):
    triton = importlib.metadata.version("triton")
    if triton.startswith("3.6.") and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 does not work with numpy 2.4 and later")
    path = str(Path(__file__).with_name(cases))
    options = ("-q", "-x", "-p", "no:cacheprovider", "-m", marker)
    run("-m", "pytest", *options, path, TRITON_INTERPRET="1")


GATED = ("--width", "768", "--apart", "--kernel", "gated_forward", "gated_backward",
         "gated_recompute")  # fmt: skip


@needs_triton
@pytest.mark.parametrize(
    ("options", "count", "registers", "instructions"),
    [((), 8, (40, 64), (16.5, 45)), (GATED, 6, (48, 80), (math.inf, math.inf))],
)
def test_compiled_kernels_for_sm_90(options, count, registers, instructions, tmp_path):
    table = tmp_path / "table.csv"
    run("benchmarks/kernel_static.py", "--arch", "90", "--csv", str(table), *options)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    for row in rows:
        backward = not row["kernel"].endswith("forward")
        assert int(row["regs"]) <= registers[backward], row
        assert int(row["spills"]) == 0, row
        assert row["access"] == "128", row
        assert float(row["instr/elt"]) <= instructions[backward], row


@needs_triton
@pytest.mark.release
@pytest.mark.parametrize("arch", ["80", "100"])
def test_the_scaled_backward_kernel_compiles(arch):
    kernels = ("scaled", "gated_scaled")
    run("benchmarks/kernel_static.py", "--arch", arch, "--kernel", *kernels, "--width", "768")


@needs_triton
@pytest.mark.release
@pytest.mark.parametrize("form", ["A", "B"])
def test_kernels_without_a_denominator_compile(form):
    options = ("--arch", "90", "--dtype", "fp32", "--width", "768", "--degree", "5", "0")
    kernels = ("--kernel", "forward", "backward", "scaled")
    run("benchmarks/kernel_static.py", "--form", form, *options, *kernels)


@needs_triton
@pytest.mark.release
def test_all_kernels_compile_for_an_amd_gpu_without_spills():
    run("benchmarks/kernel_static_amd.py")
