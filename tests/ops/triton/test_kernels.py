"""The GPU kernels without a GPU: interpreted, emulated as compiled, and their machine code."""

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
    "marker", ["not release", pytest.param("release", marks=pytest.mark.release)]
)
@pytest.mark.parametrize("cases", ["interpreted.py", "interpreted_gated.py"])
def test_interpreted_kernels_against_float64(cases, marker):
    triton = importlib.metadata.version("triton")
    if triton.startswith("3.6.") and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 does not work with numpy 2.4 and later")
    path = str(Path(__file__).with_name(cases))
    run("-m", "pytest", *QUIET, "-m", marker, path, TRITON_INTERPRET="1")


QUIET = ("-q", "-x", "-p", "no:cacheprovider")
ALL = ("-m", "release or not release")
SHARE = {
    "interpreted.py": (
        "test_dtypes_with_several_blocks_a_program[dtype0-B]",
        "test_dtypes_with_several_blocks_a_program[dtype1-A]",
        "test_layouts[dtype0-channels first, one image]",
        "test_sharing_by_group[False-shape1-rows0]",
        "test_int64_offsets",
        "test_the_last_rows_of_more_elements_than_int32_counts[rational]",
        "test_enormous_and_infinite_x[dtype0-A]",
        "test_enormous_and_infinite_x[dtype2-A]",
        "test_nan_hides_no_enormous_x_and_keeps_inside_the_tensors",
        "test_random_sizes_of_x_and_of_the_output_gradient[degree0-A-dtype0-8]",
    ),
    "interpreted_gated.py": (
        "test_dtypes_with_several_blocks_a_program[dtype1-B-False]",
        "test_the_gradients_of_halves_go_into_one_tensor[True]",
    ),
}
"""The tests that run emulated outside of a release."""


@needs_triton
@pytest.mark.parametrize("share", [True, pytest.param(False, marks=pytest.mark.release)])
@pytest.mark.parametrize("cases", SHARE)
def test_compiled_kernels_against_float64(cases, share):
    path = str(Path(__file__).with_name(cases))
    selected = [f"{path}::{name}" for name in SHARE[cases]] if share else [path]
    run("-m", "pytest", *QUIET, *ALL, "-p", "tests.ops.triton.emulated", *selected)


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
def test_all_kernels_compile_for_an_amd_gpu_without_spills():
    run("benchmarks/kernel_static_amd.py")
