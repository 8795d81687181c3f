"""The GPU kernels as a backend. Triton is imported on first use, never by ``import kat``."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from kat.errors import BackendUnavailable, first_line

DEVICE_TYPE = "cuda"


def kernels() -> Any:
    """The module :mod:`kat.ops.triton.launch`; None, after one warning, if it cannot run."""
    module, problem = _load()
    if module is None:
        _warn(problem)
    return module


def supports(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Return True if Triton runs; the kernels take any arguments. Warns once if it does not."""
    return kernels() is not None


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), with x's shape, dtype and strides."""
    return kernels().forward(x, numerator, denominator, form)


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator."""
    return kernels().backward(grad, x, numerator, denominator, form)


def backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`backward`, and F(x) from the same pass over memory."""
    return kernels().backward_recompute(grad, x, numerator, denominator, form)


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), differentiable, by the GPU kernels.

    With ``TRITON_INTERPRET=1`` in the environment CPU tensors are accepted too: Triton then runs
    the kernels in Python, for tests.

    Raises:
        BackendUnavailable: Triton is not installed, or cannot build its driver.
        ValueError: x is not on a CUDA device.
    """
    check_available(x, numerator, denominator)
    if not x.is_cuda:
        launch = kernels()
        return Interpreted.apply(launch.forward, launch.backward, x, numerator, denominator, form)
    return torch.ops.kat.rational.default(x, numerator, denominator, form)


def check_available(x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    """Checks that the kernels run on x's device, or interpreted on the CPU.

    Raises:
        BackendUnavailable: Triton is not installed, or cannot build its driver.
        ValueError: x is not on a CUDA device.
    """
    if x.is_cuda and torch.compiler.is_compiling():
        return
    module, problem = _load()
    if module is None:
        raise BackendUnavailable(f"impl='triton' is unavailable: {problem}")
    if not x.is_cuda and not (x.device.type == "cpu" and module.INTERPRETED):
        raise ValueError(f"impl='triton' needs x on a CUDA device, but x is on {x.device}")


class Interpreted(torch.autograd.Function):
    """The GPU kernels of an operator on CPU tensors, differentiable once.

    Applied to the kernels of both passes, then the operator's arguments, tensors first.
    """

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *inputs: Any) -> Tensor:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.kernel, ctx.options = backward, inputs[len(tensors) :]
        y: Tensor = forward(*inputs)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _backward_once(ctx, grad, *ctx.saved_tensors)
        return None, None, *gradients, *[None] * len(ctx.options)


@torch.autograd.function.once_differentiable
def _backward_once(ctx: Any, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The gradients; differentiating them again is an error, for any of the tensors."""
    gradients: tuple[Tensor, ...] = ctx.kernel(grad, *tensors, *ctx.options)
    return gradients


@functools.cache
def _load() -> tuple[Any, str]:
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
