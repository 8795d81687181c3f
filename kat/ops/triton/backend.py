"""The GPU kernels as a backend. Triton is imported on first use, never by ``import kat``."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from kat.errors import BackendUnavailable, first_line
from kat.ops.arguments import Rational
from kat.ops.torch_internals import is_eager
from kat.ops.triton.selfcheck import problem
from kat.ops.warning import warn_once

CONVERTS = True
DEVICE_TYPE = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_DEGREE = 7


def supports(
    f: Rational, x: Tensor, v: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> bool:
    """Return True if Triton runs, the kernels take these arguments, and they are right.

    Warns once of each reason if not. The first call of each dtype, form and degree, with a gate or
    without, compares the kernels with the reference.
    """
    reason = _problem(f, x, v, dtype=dtype)
    if reason:
        warn_once(
            f"kat.rational runs as plain PyTorch on this GPU, which is slower: {reason}. To use"
            " plain PyTorch without this warning: impl='reference'"
        )
    return not reason


def unsupported(dtype: torch.dtype, degree: tuple[int, int]) -> str:
    """Return the reason why the kernels do not take a dtype and degree; empty if they do.

    Huge x is computed in float64, by Horner's rule as it is. Up to degree 7 that does not overflow
    for x in float32.
    """
    if dtype not in DTYPES:
        return f"the GPU kernels do not support {dtype}"
    if max(degree) > MAX_DEGREE:
        return f"the GPU kernels support degrees up to {MAX_DEGREE}, got {degree}"
    return ""


def _problem(f: Rational, x: Tensor, v: Tensor | None, *, dtype: torch.dtype | None) -> str:
    module, reason = load()
    reason = reason or unsupported(x.dtype, f.degree)
    out = dtype or x.dtype
    return reason or problem(module, x.device, x.dtype, out, f.form, f.degree, v is not None)


def forward(f: Rational, x: Tensor, v: Tensor | None = None, *, y: Tensor) -> None:
    """y <- F(x), or F(x) v."""
    load()[0].forward(f, x, v, y=y)


def backward(
    f: Rational,
    grad: Tensor,
    x: Tensor,
    v: Tensor | None = None,
    *,
    dx: Tensor,
    dv: Tensor | None = None,
    coefficients: bool = True,
) -> tuple[Tensor, Tensor] | None:
    """Fill dx, and dv of a gate; return the gradients of the coefficients if asked for."""
    module, _ = load()
    found: tuple[Tensor, Tensor] | None = module.backward(
        f, grad, x, v, dx=dx, dv=dv, coefficients=coefficients
    )
    return found


def check_available(
    f: Rational, x: Tensor, v: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Check that the kernels run on x's device, take these arguments, and are right.

    With ``TRITON_INTERPRET=1`` in the environment CPU tensors are accepted too: Triton then runs
    the kernels in Python, for tests.

    Raises:
        BackendUnavailable: Triton is not installed, or cannot build its driver, the kernels do
            not support the dtype or the degree, or they differ from the reference.
        ValueError: x is not on a CUDA device.
    """
    reason = unsupported(x.dtype, f.degree)
    if not reason:
        if x.is_cuda and torch.compiler.is_compiling():
            return
        module, reason = load()
        if not (reason or x.is_cuda or (x.device.type == "cpu" and module.INTERPRETED)):
            raise ValueError(f"impl='triton' needs x on a CUDA device, but x is on {x.device}")
        if not reason and is_eager(x):
            reason = _problem(f, x, v, dtype=dtype)
    if reason:
        raise BackendUnavailable(f"impl='triton' is unavailable: {reason}")


@functools.cache
def load() -> tuple[Any, str]:
    """Return the launch module and no problem, or None, the problem and what to install."""
    try:
        module = importlib.import_module(".launch", __package__)
    except (ImportError, OSError) as error:
        package = "triton-windows" if sys.platform == "win32" else "triton"
        return None, f"Triton cannot be imported ({error}); install it with: pip install {package}"
    if torch.cuda.is_available() and not module.INTERPRETED:
        try:  # Triton compiles its driver in C here, and raises whatever then fails
            importlib.import_module("triton").runtime.driver.active.get_current_target()
        except Exception as error:
            return None, (
                "Triton cannot build its driver; install a C compiler and the headers of Python,"
                f" such as the packages gcc and python3-dev ({first_line(error)})"
            )
    return module, ""
