"""The way to the GPU kernels, which need Triton: imported on first use, never by ``import kat``."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from kat.errors import BackendUnavailable


def kernels() -> Any:
    """The functions of :mod:`kat.ops.triton.launch`, or None, after one warning, without Triton."""
    module, problem = _load()
    if module is None:
        _warn(problem)
    return module


def serves(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Whether there are kernels; they take any arguments. Warns, once, if there are none."""
    return kernels() is not None


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), of x's shape, dtype and strides."""
    return kernels().rational_forward(x, numerator, denominator, form)


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator."""
    return kernels().rational_backward(grad, x, numerator, denominator, form)


def backward_and_value(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`backward`, and F(x) from the same pass over memory."""
    return kernels().rational_backward_recompute(grad, x, numerator, denominator, form)


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x) = P(x) / Q(x) by the GPU kernels, or an error that says why not.

    With ``TRITON_INTERPRET=1`` in the environment, CPU tensors are taken as well: Triton then runs
    the kernels in Python, for tests.
    """
    if x.is_cuda and torch.compiler.is_compiling():
        return torch.ops.kat.rational(x, numerator, denominator, form)
    module, problem = _load()
    if module is None:
        raise BackendUnavailable(f"impl='triton': {problem}; install it with: pip install triton")
    if x.is_cuda:
        return torch.ops.kat.rational(x, numerator, denominator, form)
    if x.device.type == "cpu" and module.INTERPRETED:
        return _Interpreted.apply(x, numerator, denominator, form)
    raise ValueError(f"impl='triton' takes tensors on a CUDA device, got x on {x.device}")


class _Interpreted(torch.autograd.Function):
    """The GPU kernels on CPU tensors, differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator)
        ctx.form = form
        return kernels().rational_forward(x, numerator, denominator, form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_once(ctx, grad, *ctx.saved_tensors), None


@torch.autograd.function.once_differentiable
def _once(ctx: Any, grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """The gradients; to differentiate them again is an error, for any of the four tensors."""
    return kernels().rational_backward(grad, x, a, b, ctx.form)


@functools.cache
def _load() -> tuple[Any, str]:
    try:
        return importlib.import_module("kat.ops.triton.launch"), ""
    except (ImportError, OSError) as error:
        return None, f"Triton cannot be imported ({error})"


@functools.cache
def _warn(problem: str) -> None:
    warnings.warn(
        f"{problem}, so kat.rational runs as plain PyTorch on this GPU, which is slower. Install it"
        " with: pip install triton. Or ask for plain PyTorch: impl='reference'",
        stacklevel=2,
    )
