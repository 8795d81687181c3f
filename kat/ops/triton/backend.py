"""The GPU kernels as a backend. Triton is imported on first use, never by ``import kat``."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from kat.errors import BackendUnavailable, first_line

CONVERTS = True
DEVICE_TYPE = "cuda"


def kernels() -> Any:
    """The module :mod:`kat.ops.triton.launch`; None, after one warning, if it cannot run."""
    module, problem = load()
    if module is None:
        _warn(problem)
    return module


def supports(dtype: torch.dtype, m: int, n: int) -> bool:
    """Return True if Triton runs; the kernels take any arguments. Warns once if it does not."""
    return kernels() is not None


def forward(
    y: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    v: Tensor | None = None,
) -> None:
    """y <- F(x), or F(x) v."""
    kernels().forward(y, x, numerator, denominator, form, v)


def backward(
    dx: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    v: Tensor | None = None,
    dv: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fills dx, y if given, and dv of a gate; returns the gradients of the coefficients."""
    return kernels().backward(dx, y, grad, x, numerator, denominator, form, v, dv)


def check_available(x: Tensor, m: int, n: int) -> None:
    """Checks that the kernels run on x's device.

    With ``TRITON_INTERPRET=1`` in the environment CPU tensors are accepted too: Triton then runs
    the kernels in Python, for tests.

    Raises:
        BackendUnavailable: Triton is not installed, or cannot build its driver.
        ValueError: x is not on a CUDA device.
    """
    if x.is_cuda and torch.compiler.is_compiling():
        return
    module, problem = load()
    if module is None:
        raise BackendUnavailable(f"impl='triton' is unavailable: {problem}")
    if not x.is_cuda and not (x.device.type == "cpu" and module.INTERPRETED):
        raise ValueError(f"impl='triton' needs x on a CUDA device, but x is on {x.device}")


@functools.cache
def load() -> tuple[Any, str]:
    """Return the launch module and no problem, or None, the problem and what to install."""
    try:
        module = importlib.import_module(".launch", __package__)
    except (ImportError, OSError) as error:
        return None, f"Triton cannot be imported ({error}); install it with: pip install triton"
    if torch.cuda.is_available() and not module.INTERPRETED:
        try:  # Triton compiles its driver in C here, and raises whatever then fails
            importlib.import_module("triton").runtime.driver.active.get_current_target()
        except Exception as error:
            return None, (
                "Triton cannot build its driver; install a C compiler and the headers of Python,"
                f" such as the packages gcc and python3-dev ({first_line(error)})"
            )
    return module, ""


@functools.cache
def _warn(problem: str) -> None:
    warnings.warn(
        f"kat.rational runs as plain PyTorch on this GPU, which is slower: {problem}. To use plain"
        " PyTorch without this warning: impl='reference'",
        stacklevel=2,
    )
