"""The first call of each kind on a GPU: a sample by the kernels beside the reference in float64.

A kind is a GPU, the dtypes of x and of the output, form, degree, and with a gate or without. The
environment variable ``KAT_GPU_CHECK=off`` leaves the comparison out; Triton's interpreter, which
cuts bfloat16 off, too.
"""

from __future__ import annotations

import functools
import math
import os
import re
from importlib import import_module
from typing import Any

import torch

from kat.errors import first_line
from kat.ops.arguments import Rational, compute_dtype
from kat.ops.tolerance import ratios


@functools.cache
def problem(
    kernels: Any,
    device: torch.device,
    dtype: torch.dtype,
    out: torch.dtype,
    form: str,
    degree: tuple[int, int],
    gated: bool,
) -> str:
    """Return the error of the kernels of a kind, or of the attempt to run them; empty if none.

    Args:
        kernels: the module :mod:`kat.ops.triton.launch`.
        device, dtype, out, form, degree, gated: of x, the output and the call.

    Raises:
        RuntimeError: nothing is known of the kind, and a CUDA graph is being captured; or the GPU
            has no memory left, or does nothing more after an illegal access.
    """
    from kat.ops.triton.memory import INTERPRETED  # needs Triton, as the kernels do

    if INTERPRETED or os.environ.get("KAT_GPU_CHECK") == "off":
        return ""
    refuse_capture()
    try:
        error = largest_error(kernels, device, dtype, out, form, degree, gated)
        found = f"are wrong by {error:.3g} times the tolerance"
    except Exception as failure:  # Triton, its assembler and its launcher raise errors of any kind
        fatal = re.search("out of memory|illegal memory access", str(failure))
        if fatal or isinstance(failure, torch.AcceleratorError):
            raise
        name = type(failure).__name__
        error, found = math.inf, f"do not run ({name}: {first_line(failure)})"
    if error <= 1:
        return ""
    return (
        f"the kernels from {dtype} to {out}, form {form}, degree {degree}"
        f"{', gated' if gated else ''} {found} on {torch.cuda.get_device_name(device)}, Triton"
        f" {import_module('triton').__version__}"
    )


def refuse_capture() -> None:
    """Refuse what a CUDA graph cannot record.

    Raises:
        RuntimeError: a CUDA graph is being captured.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "kernels cannot be compiled while a CUDA graph is captured; before the capture, call"
            " kat.ops.warmup with the same arguments"
        )


def largest_error(
    kernels: Any,
    device: torch.device,
    dtype: torch.dtype,
    out: torch.dtype,
    form: str,
    degree: tuple[int, int],
    gated: bool,
) -> float:
    """Return the largest error / tolerance of 33 rows and their gradients, in 8 groups.

    Two programs divide them: each visits several blocks, and one of them the last block, a part.
    """
    m, n = degree
    # The rows from 33 on are beyond the end.
    place = torch.arange(40 * 256, dtype=torch.float64, device="cpu").view(40, 256)
    # An eighth of x is enormous, in blocks of one of the programs; their gradients are as much
    # smaller, so that no sum is made of them alone.
    largest = min(torch.finfo(dtype).max, torch.finfo(out).max)
    enormous = 2.0 ** (0.6 * math.log2(largest) // 1)
    size = enormous ** (place % 4096 // 3584)
    numbers = 8 * place.sin() * size, (-1.0) ** (place % 5) / size, (-1.0) ** (place % 3)
    x, grad, v = (t.to(device, dtype)[:33] for t in numbers)
    # Form B: the sum of b_j x^j is 0 for x = -(pi + 0, 1, ...), and for no x of the sample.
    rows = place[:1, : m + 1].cos(), (place[:8, :1] / 256 + math.pi) ** -place[:1, 1 : n + 1]
    a, b = (t.to(device, compute_dtype(dtype)) for t in rows)
    f = Rational(a, b, form)
    whole = torch.full((40, 256), math.inf, dtype=out, device=device)
    y, grad = whole[:33], grad.to(out)
    dx, dv = torch.empty_like(x), torch.empty_like(x)
    gate = v if gated else None
    kernels.forward(f, x, gate, y=y, programs=2)
    da, db = kernels.backward(f, grad, x, gate, dx=dx, dv=dv if gated else None, programs=2)
    values = [(y * v).to(out), dv / grad.to(dtype)] if gated else [y]
    g = grad * v if gated else grad
    errors = [whole[33:].isfinite().flatten().double().cpu() * 2]
    for value in values:
        errors += [error.flatten() for error in ratios((value, dx, da, db), f, g, x)]
    return float(torch.cat(errors).max())
