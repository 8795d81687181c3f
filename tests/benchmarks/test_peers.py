"""``benchmarks/peers.py`` with folders like the peers', whose kernels have known properties."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None,
        reason="triton is not installed; get it with: pip install triton",
    ),
]

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"
SHAPE = (4, 16, 256)

COPIES = """
import torch, triton
import triton.language as tl

@triton.jit
def rational_fwd_kernel(x_ptr, y_ptr, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < size), mask=at < size)

@triton.jit
def rational_bwd_kernel(grad_ptr, x_ptr, dx_ptr, da_ptr, db_ptr, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < size)
    grad = tl.load(grad_ptr + at, mask=at < size)
    tl.store(dx_ptr + at, x * grad * 0.0, mask=at < size)
    tl.atomic_add(da_ptr + at % 48, grad * 0.0, mask=at < size)
    program = tl.program_id(0)  # the first adds 2^30, the next -2^30, what is between is lost
    tl.atomic_add(db_ptr, tl.where(program > 1, 1.0, tl.where(program == 0, 2.0**30, -(2.0**30))))

def rational_fwd_triton(x, a, b):
    y = torch.empty_like(x)
    rational_fwd_kernel[(triton.cdiv(x.numel(), 256),)](x, y, x.numel(), BLOCK=256)
    return y

def rational_bwd_triton(grad, x, a, b):
    dx, da, db = torch.empty_like(x), torch.zeros_like(a), torch.zeros_like(b)
    grid = lambda arguments: (triton.cdiv(x.numel(), arguments["BLOCK"]),)
    rational_bwd_kernel[grid](grad, x, dx, da, db, x.numel(), BLOCK=256)
    return dx, da, db
"""
"""The gradients dx and da are zero, db depends on the order of the programs."""


EXACT = """
def Rational_PYTORCH_A_F(x, a, b, training):
    x, a, b = x.double(), a.double(), b.double()
    numerator = sum(a[i] * x**i for i in range(6))
    denominator = 1 + sum((b[i] * x ** (i + 1)).abs() for i in range(4))
    return (numerator / denominator).float()
"""
"""The formula in float64, its gradients rounded to float32."""


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    for path, text in {
        "flashkat/rational_kat/kernels/flash_rational_triton.py": COPIES,
        "rational_activations/rational/torch/rational_pytorch_functions.py": EXACT,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture(scope="module")
def rows(peers):
    table = peers / "table.csv"
    names = ("flashkat", "rational_activations")
    command = [
        *(sys.executable, str(SCRIPT)),
        *(word for name in names for word in ("--peer", f"{name}={peers / name}")),
        *("--arch", "90", "--shape", "x".join(map(str, SHAPE))),
        *("--image", "2x64", "--batches", "1", "16", "--order-batch", "32", "--orders", "6"),
        *("--seconds", "0.01", "--csv", str(table)),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = table.read_text().splitlines()
    assert lines[0].startswith("# python ")
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def values(rows, **wanted):
    return [r["value"] for r in rows if all(r[key] == value for key, value in wanted.items())]


def value(rows, **wanted):
    (only,) = values(rows, **wanted)
    return float(only)


def test_properties_of_compiled_kernels(rows):
    kernel = {"provider": "flashkat", "setting": "sm_90 float32 4x16x256"}
    forward, backward = ({**kernel, "operation": o} for o in ("forward", "backward"))
    assert value(rows, **forward, metric="bytes moved") == 8
    assert value(rows, **backward, metric="bytes moved") == 12
    assert value(rows, **forward, metric="atomic additions") == 0
    assert value(rows, **backward, metric="atomic additions") == pytest.approx(
        1 + 1 / 256, rel=1e-3
    )
    assert value(rows, **forward, metric="access width") == 64  # 256 elements, 128 threads
    assert value(rows, **forward, metric="spills") == 0
    assert 4 <= value(rows, **forward, metric="registers") <= 32
    assert 3 <= value(rows, **forward, metric="instructions") <= 30
    narrow = {**forward, "setting": "sm_90 bfloat16 4x16x256"}
    assert value(rows, **narrow, metric="bytes moved") == 4


def test_gradient_errors(rows):
    for batch in ("1", "16"):
        setting = f"float32 {batch}x2x64"
        for quantity in ("dx", "da"):  # zeros are wrong by 100 %
            error = {"metric": f"relative error of {quantity}", "setting": setting}
            assert value(rows, provider="flashkat", **error) == pytest.approx(1)
        for quantity in ("dx", "da", "db"):
            error = {"metric": f"relative error of {quantity}", "setting": setting}
            assert 0 < value(rows, provider="rational_activations", **error) < 6e-8
            assert 0 < value(rows, provider="kat", **error) < 1e-6
    assert values(rows, provider="kat", metric="relative error of da", basis="eager") == []


def test_atomics_give_different_results_in_different_orders_of_the_programs(rows):
    assert value(rows, provider="flashkat", metric="distinct results") > 1
    assert value(rows, provider="kat", metric="distinct results") == 1
