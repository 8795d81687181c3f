"""The first call of each kind on a GPU: a sample by the kernels beside the reference in float64.

A kind is a GPU, dtype, form, degree, and with a gate or without. The environment variable
``KAT_GPU_CHECK=off`` leaves the comparison out; Triton's interpreter, which cuts bfloat16 off, too.
"""

from __future__ import annotations

import functools
import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from kat.ops.arguments import compute_dtype
from kat.ops.tolerance import ratios


@functools.cache
def problem(
    kernels: Any,
    device: torch.device,
    dtype: torch.dtype,
    form: str,
    degree: tuple[int, int],
    gated: bool,
) -> str:
    """Return the error of the kernels of a kind; empty if there is none.

    Args:
        kernels: the module :mod:`kat.ops.triton.launch`.
        device, dtype, form, degree, gated: of x and the call.

    Raises:
        RuntimeError: nothing is known of the kind, and a CUDA graph is being captured.
    """
    from kat.ops.triton.memory import INTERPRETED  # needs Triton, as the kernels do

    if INTERPRETED or os.environ.get("KAT_GPU_CHECK") == "off":
        return ""
    refuse_capture()
    error = largest_error(kernels, device, dtype, form, degree, gated)
    if error <= 1:
        return ""
    try:
        driver = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        driver = "unknown driver"
    return (
        f"the kernels for {dtype}, form {form}, degree {degree}{', gated' if gated else ''} are"
        f" wrong by {error:.3g} times the tolerance on {torch.cuda.get_device_name(device)},"
        f" {driver}, Triton {import_module('triton').__version__}"
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
    form: str,
    degree: tuple[int, int],
    gated: bool,
) -> float:
    """Return the largest error / tolerance of 4096 values and their gradients, in 8 groups."""
    m, n = degree
    place = torch.arange(4096, dtype=torch.float64, device="cpu").view(16, 256)
    # An eighth of x is enormous, so that some programs have ordinary x alone; their gradients are
    # as much smaller, so that no sum is made of them alone.
    enormous = 2.0 ** (0.6 * math.log2(torch.finfo(dtype).max) // 1)
    size = enormous ** (place // 3584)
    numbers = 8 * place.sin() * size, (-1.0) ** (place % 5) / size, (-1.0) ** (place % 3)
    x, grad, v = (t.to(device, dtype) for t in numbers)
    # Form B: the sum of b_j x^j is 0 for x = -(pi + 0, 1, ...), and for no x of the sample.
    rows = place[:1, : m + 1].cos(), (place[:8, :1] / 256 + math.pi) ** -place[:1, 1 : n + 1]
    a, b = (t.to(device, compute_dtype(dtype)) for t in rows)
    y, dx, dv = (torch.empty_like(x) for _ in range(3))
    gate = v if gated else None
    kernels.forward(x, a, b, gate, form=form, y=y)
    da, db = kernels.backward(grad, x, a, b, gate, form=form, dx=dx, dv=dv if gated else None)
    values = [y * v, dv / grad] if gated else [y]
    g = grad * v if gated else grad
    errors = []
    for f in values:
        errors += [error.flatten() for error in ratios((f, dx, da, db), g, x, a, b, form)]
    return float(torch.cat(errors).max())
