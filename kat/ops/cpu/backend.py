"""The CPU kernel as a backend: which arguments it supports, and its forward and backward pass."""

from __future__ import annotations

import functools
import os
import warnings

import torch
from torch import Tensor

from kat.errors import BackendUnavailable
from kat.ops.arguments import compute_dtype
from kat.ops.cpu.library import DTYPES, Library, find_library
from kat.ops.torch_internals import constant_when_compiled

DEVICE_TYPE = "cpu"
MAX_DEGREE = 16
MAX_ORDER = 3
"""Of the derivatives that have kernels."""


def supports(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Whether the kernel takes these arguments. Warns once if the library is unavailable."""
    if _unsupported(x.dtype, numerator.shape[1] - 1, denominator.shape[1]):
        return False
    library = find_library()
    if isinstance(library, Library):
        return True
    if os.environ.get("KAT_CPU_KERNEL") != "off":
        _warn(library)
    return False


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), differentiable, by the CPU kernel.

    Raises:
        ValueError: x is not on the CPU.
        BackendUnavailable: there is no library, or it does not support the dtype or the degrees.
    """
    check_available(x, numerator, denominator)
    return torch.ops.kat.rational.default(x, numerator, denominator, form)


def check_available(x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    """Checks that the kernel takes these arguments.

    Raises:
        ValueError: x is not on the CPU.
        BackendUnavailable: there is no library, or it does not support the dtype or the degrees.
    """
    if x.device.type != "cpu":
        raise ValueError(f"impl='cpu' needs x on the cpu, but x is on {x.device}")
    reason = _unavailable(x.dtype, numerator.shape[1] - 1, denominator.shape[1])
    if reason:
        raise BackendUnavailable(f"impl='cpu' is unavailable: {reason}")


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), with x's shape, dtype and layout."""
    y = torch.empty_like(x)
    forward_into(y, _laid_out_like(y, x), numerator, denominator, form)
    return y


def forward_into(y: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> None:
    """y <- F(x).

    Args:
        y, x: dense, of one dtype and one layout, in memory of their own: the kernel reads large x
            again after it has written y.
        numerator, denominator, form: arguments that the kernel :func:`supports`.
    """
    if x.numel():
        a, b = dense_coefficients(x, numerator, denominator)
        loaded_library().run(form, x, None, y, None, a, b)


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator.

    Those of the coefficients are the same bits for any number of threads.

    Args:
        grad: the gradient of the output, of x's shape; it is cast to x's dtype.
        x, numerator, denominator, form: arguments that the kernel :func:`supports`.
    """
    return _backward(grad, x, numerator, denominator, form, None)


def backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`backward`, and F(x) from the same pass over memory."""
    y = torch.empty_like(x)
    return *_backward(grad, x, numerator, denominator, form, y), y


def backward_into(
    dx: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
) -> tuple[Tensor, Tensor]:
    """dx <- F'(x) grad, y <- F(x) if it is given; returns the gradients of the coefficients.

    Args:
        dx, y, grad, x: dense, of one dtype and one layout; dx and y are tensors of their own.
        numerator, denominator, form: arguments that the kernel :func:`supports`.

    Returns:
        Those of numerator and denominator, in the dtype of the arithmetic.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    new = torch.empty_like if x.numel() else torch.zeros_like
    da, db = new(a), new(b)
    if x.numel():
        loaded_library().run(form, x, grad, y, dx, a, b, da, db)
    return da, db


def derivative(
    x: Tensor, numerator: Tensor, denominator: Tensor, form: str, order: int
) -> Tensor | None:
    """F^(order)(x), with x's shape and layout; None where powers would overflow.

    Args:
        x: in float32 or float64.
        numerator, denominator, form: arguments that the kernel :func:`supports`.
        order: 1 to :data:`MAX_ORDER`.
    """
    y = torch.empty_like(x)
    a, b = dense_coefficients(x, numerator, denominator)
    if not x.numel():
        return y
    x = _laid_out_like(y, x)
    within = loaded_library().run(form, x, None, y, None, a, b, order=order)
    return y if within else None


def derivative_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, order: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The gradients of ``sum(grad * F^(order)(x))``; else as :func:`derivative`."""
    dx = torch.empty_like(x)
    x, grad = _laid_out_like(dx, x), _laid_out_like(dx, grad)
    a, b = dense_coefficients(x, numerator, denominator)
    da, db = torch.zeros_like(a), torch.zeros_like(b)
    if x.numel() and not loaded_library().run(form, x, grad, None, dx, a, b, da, db, order):
        return None
    return dx, da.to(numerator.dtype), db.to(denominator.dtype)


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, y: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x)
    x, grad = _laid_out_like(dx, x), _laid_out_like(dx, grad)
    da, db = backward_into(dx, y, grad, x, numerator, denominator, form)
    return dx, da.to(numerator.dtype), db.to(denominator.dtype)


def loaded_library() -> Library:
    """The library, where the kernel :func:`supports` the arguments."""
    library = find_library()
    assert isinstance(library, Library)
    return library


def dense_coefficients(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients as the kernel reads them: contiguous, in the dtype of the arithmetic."""
    dtype = compute_dtype(x.dtype)
    return dense(numerator, dtype), dense(denominator, dtype)


def dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor, contiguous and of this dtype."""
    if tensor.dtype == dtype and tensor.is_contiguous():
        return tensor  # two calls less: this runs at every step
    return tensor.to(dtype).contiguous()


def _laid_out_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` with the strides and dtype of the pattern; a copy only if it has others.

    A pattern from ``empty_like(x)`` is dense, in x's own order of dimensions where x is dense. So
    channels last, (B, C, H, W) and any other permutation of a dense tensor are not copied.
    """
    if tensor.stride() == pattern.stride() and tensor.dtype == pattern.dtype:
        return tensor
    return torch.empty_like(pattern).copy_(tensor)


def _unsupported(dtype: torch.dtype, m: int, n: int) -> str:
    """Why the kernel does not support the arguments; empty if it does."""
    if dtype not in DTYPES:
        return f"the kernel does not support {dtype}"
    if max(m, n) > MAX_DEGREE:
        return f"the kernel supports degrees up to {MAX_DEGREE}, got ({m}, {n})"
    return ""


@constant_when_compiled
def _unavailable(dtype: torch.dtype, m: int, n: int) -> str:
    library = find_library()
    return _unsupported(dtype, m, n) or (library if isinstance(library, str) else "")


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"kat's CPU kernel is unavailable, so the slower PyTorch reference runs: {reason}"
        " (KAT_CPU_KERNEL=off selects the reference without this warning)",
        RuntimeWarning,
        stacklevel=3,
    )
