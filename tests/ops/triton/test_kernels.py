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
        "test_sharing_by_group[True-shape1-rows0]",
        "test_int64_offsets",
        "test_triton_launches_where_one_of_its_private_names_is_gone",
        "test_the_last_rows_of_more_elements_than_int32_counts[rational]",
        "test_enormous_and_infinite_x[dtype0-A]",
        "test_enormous_and_infinite_x[dtype1-A]",
        "test_without_gradients_of_coefficients_no_sum_is_made[True]",
        "test_nan_hides_no_enormous_x_and_keeps_inside_the_tensors",
        "test_random_sizes_of_x_and_of_the_output_gradient[degree0-A-dtype0-8]",
    ),
    "interpreted_gated.py": (
        "test_dtypes_with_several_blocks_a_program[dtype1-B-False]",
        "test_dtypes_with_several_blocks_a_program[dtype0-A-True]",
    ),
    "checked.py": (
        "test_right_kernels_are_compared_once[True-dtype1-B]",
        "test_wrong_kernels_are_named_once_and_the_reference_runs[slope]",
        "test_a_gate_is_compared_apart",
        "test_the_switch_leaves_the_comparison_out",
        "test_a_capture_compares_nothing_after_a_warm_up",
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


@needs_triton
def test_a_compiled_kernel_is_loaded_where_python_leaves_assertions_out():
    """What assert_right raises is left out as well; a launch that fails is not."""
    name = "test_float32_gradient_of_bfloat16_x"
    path = str(Path(__file__).with_name("interpreted.py"))
    ignored = ("-W", "ignore::pytest.PytestConfigWarning")
    run(
        "-O", "-m", "pytest", *QUIET, *ignored, "-p", "tests.ops.triton.emulated", f"{path}::{name}"
    )


KERNELS = ("forward", "backward", "backward_x", "float64", "gated_forward", "gated_backward",
           "gated_backward_x", "gated_float64")  # fmt: skip
GATED = ("--width", "768", "--apart", "--kernel", "gated_forward", "gated_backward")


def compiled_for(arch: str, folder: Path, *options: str) -> list[dict[str, str]]:
    """What the compiler made of the kernels for GPUs of a compute capability, times ten."""
    table = folder / "table.csv"
    run("benchmarks/kernel_static.py", "--arch", arch, "--csv", str(table), *options)
    with table.open() as file:
        return list(csv.DictReader(file.readlines()[3:]))


@needs_triton
@pytest.mark.parametrize(
    ("options", "count", "registers", "instructions"),
    [((), 8, (40, 64), (16.5, 45)), (GATED, 4, (48, 64), (math.inf, math.inf))],
)
def test_compiled_kernels_for_sm_90(options, count, registers, instructions, tmp_path):
    rows = compiled_for("90", tmp_path, *options)
    assert len(rows) == count
    for row in rows:
        backward = not row["kernel"].endswith("forward")
        assert int(row["regs"]) <= registers[backward], row
        assert int(row["spills"]) == 0, row
        assert row["access"] == "128", row
        assert float(row["instr/elt"]) <= instructions[backward], row


@needs_triton
@pytest.mark.release
@pytest.mark.parametrize("arch", ["75", "80", "89", "100", "120"])
def test_all_kernels_compile_for_other_gpus_without_spills(arch, tmp_path):
    rows = compiled_for(arch, tmp_path, "--width", "768", "--kernel", *KERNELS)
    assert [row["kernel"] for row in rows] == [*KERNELS, *KERNELS]
    assert {row["spills"] for row in rows} == {"0"}


@needs_triton
@pytest.mark.release
def test_all_kernels_compile_for_an_amd_gpu_without_spills():
    run("benchmarks/kernel_static_amd.py")
