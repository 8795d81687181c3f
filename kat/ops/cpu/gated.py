"""The CPU kernel of the gate F(x) v: forward and backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from kat.ops.cpu import backend
from kat.ops.cpu.backend import check_available, dense_coefficients, loaded_library

DEVICE_TYPE = backend.DEVICE_TYPE
supports = backend.supports


def gated_rational(
    x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Tensor:
    """F(x) v, differentiable, by the CPU kernel.

    Raises:
        ValueError: x is not on the CPU.
        BackendUnavailable: there is no library, or it does not support the dtype or the degrees.
    """
    check_available(x, numerator, denominator)
    return torch.ops.kat.gated_rational.default(x, v, numerator, denominator, form)


def forward(x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x) v, contiguous."""
    y = x.new_empty(x.shape)
    forward_into(y, x, v, numerator, denominator, form)
    return y


def forward_into(
    y: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> None:
    """y <- F(x) v.

    Args:
        y: (..., C), contiguous, in memory of its own.
        x, v: of y's shape. Rows of one stride with contiguous channels, such as the halves of one
            tensor, are read where they are; others are copied.
        numerator, denominator, form: arguments that the kernel :func:`supports`.
    """
    if x.numel():
        a, b = dense_coefficients(x, numerator, denominator)
        x, v = _rows(x, v)
        loaded_library().run_gated(form, x, v, None, y, None, None, a, b)


def backward(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``sum(grad * F(x) * v)`` for x, v, numerator and denominator.

    Those of the coefficients are the same bits for any number of threads.
    """
    dx, dv = x.new_empty(x.shape), x.new_empty(x.shape)
    da, db = backward_into(dx, dv, None, grad, x, v, numerator, denominator, form)
    return dx, dv, da.to(numerator.dtype), db.to(denominator.dtype)


def backward_recompute(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`backward`, and F(x) v from the same pass over memory."""
    dx, dv, y = (x.new_empty(x.shape) for _ in range(3))
    da, db = backward_into(dx, dv, y, grad, x, v, numerator, denominator, form)
    return dx, dv, da.to(numerator.dtype), db.to(denominator.dtype), y


def backward_into(
    dx: Tensor,
    dv: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    v: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
) -> tuple[Tensor, Tensor]:
    """dx <- grad v F'(x), dv <- grad F(x), y <- F(x) v if it is given.

    Args:
        dx, dv: (..., C), both contiguous, or the halves of one contiguous tensor.
        y: (..., C), contiguous.
        grad: of y's shape; it is cast to x's dtype.
        x, v, numerator, denominator, form: as in :func:`forward_into`.

    Returns:
        The gradients of numerator and denominator, in the dtype of the arithmetic.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    if not x.numel():
        return torch.zeros_like(a), torch.zeros_like(b)
    da, db = torch.empty_like(a), torch.empty_like(b)
    x, v = _rows(x, v)
    dx, dv = dx.view(x.shape), dv.view(x.shape)
    grad = grad.to(x.dtype).contiguous()
    loaded_library().run_gated(form, x, v, grad, y, dx, dv, a, b, da, db)
    return da, db


def _rows(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, channels) of both, with contiguous channels and rows of one stride."""
    shape = (x.shape[:-1].numel(), x.shape[-1])
    x, v = x.reshape(shape), v.reshape(shape)
    if x.stride() == v.stride() and x.stride(1) == 1 and x.dtype == v.dtype:
        return x, v
    return x.contiguous(), v.to(x.dtype).contiguous()
