"""The machine code of the GPU kernels, without a GPU."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; get it with: pip install triton",
)


def run(*arguments: str) -> str:
    """Run Python, and return what it prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    return result.stdout


WITHOUT_ASSERTIONS = """
import torch
from kat.ops import plain
from kat.ops.arguments import Rational
from tests.ops.triton import emulated, interpreted

_, x, a, b = interpreted.inputs((5, 32), rows=(1, 2))
y = interpreted.forward(x, a, b, form="A")
torch.testing.assert_close(y, plain.forward(Rational(a, b), x))
print(len(emulated.EMULATOR.launches))
"""


@needs_triton
@pytest.mark.release
def test_a_compiled_kernel_is_loaded_where_python_leaves_assertions_out():
    assert run("-O", "-c", WITHOUT_ASSERTIONS) == "1\n"


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
    [
        ((), 8, (40, 64), (16.5, 45)),
        pytest.param(GATED, 4, (48, 64), (math.inf, math.inf), marks=pytest.mark.release),
    ],
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
