"""The GPU kernels without a GPU: interpreted, compiled, and asked for where they cannot run."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

import kat
from kat.ops import dispatch as registration
from kat.ops import reference
from kat.ops.triton import backend as gpu

ROOT = Path(__file__).resolve().parents[2]
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
def test_interpreted_kernels_against_float64():
    triton = importlib.metadata.version("triton")
    if triton.startswith("3.6.") and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 does not work with numpy 2.4 and later")
    cases = str(Path(__file__).with_name("triton_cases.py"))
    run("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", cases, TRITON_INTERPRET="1")


@needs_triton
def test_compiled_kernels_for_sm_90(tmp_path):
    table = tmp_path / "table.csv"
    run("benchmarks/kernel_static.py", "--arch", "90", "--csv", str(table))
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row in rows:
        forward = row["kernel"] == "forward"
        assert int(row["regs"]) <= (40 if forward else 64), row
        assert int(row["spills"]) == 0, row
        assert row["access"] == "128", row
        assert float(row["instr/elt"]) <= (16.5 if forward else 45), row


@needs_triton
@pytest.mark.parametrize("arch", ["80", "100"])
def test_the_scaled_backward_kernel_compiles(arch):
    run("benchmarks/kernel_static.py", "--arch", arch, "--kernel", "scaled", "--width", "768")


@pytest.fixture
def example():
    return torch.randn(3, 16), torch.ones(1, 6), torch.zeros(8, 4)


def test_asked_for_by_name_on_the_cpu(example, importing):
    importing(lambda name: SimpleNamespace(INTERPRETED=False))
    with pytest.raises(ValueError, match="CUDA device, got x on cpu"):
        kat.rational(*example, impl="triton")


def test_asked_for_by_name_without_triton(example, no_triton):
    with pytest.raises(RuntimeError, match=r"No module named 'triton'.*pip install triton"):
        kat.rational(*example, impl="triton")


def test_one_warning_without_triton(no_triton):
    with pytest.warns(UserWarning, match=r"plain PyTorch.*pip install triton"):
        assert gpu.kernels() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu.kernels() is None


@pytest.mark.filterwarnings("ignore:Triton cannot be imported")
def test_the_reference_serves_without_triton(example, no_triton):
    forward = registration.serve(gpu, "forward", reference.rational_forward)
    assert torch.equal(forward(*example, "A"), kat.rational(*example, impl="reference"))
    backward = registration.serve(gpu, "backward", reference.rational_backward)
    gradients = backward(torch.ones_like(example[0]), *example, "A")
    assert [g.shape for g in gradients] == [tensor.shape for tensor in example]


@pytest.fixture
def importing(monkeypatch):
    """Says what the module of the kernels is, which is imported anew."""
    with monkeypatch.context() as changed:

        def replace(function):
            changed.setattr(importlib, "import_module", function)
            importlib.reload(gpu)

        yield replace
    importlib.reload(gpu)


@pytest.fixture
def no_triton(importing):
    def absent(name: str) -> None:
        raise ImportError("No module named 'triton'")

    importing(absent)
