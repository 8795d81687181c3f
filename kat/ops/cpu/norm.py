"""The CPU kernel of F(LayerNorm(x)) as a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from kat.ops.cpu import backend
from kat.ops.cpu.backend import dense, dense_coefficients, loaded_library

DEVICE_TYPE = backend.DEVICE_TYPE
supports = backend.supports
check_available = backend.check_available


def forward_into(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> None:
    """y <- F(LayerNorm(x)).

    Args:
        y: as many elements as x, contiguous, in memory of its own.
        x: (..., channels), not empty, contiguous.
        weight, bias: (channels,).
        numerator, denominator, form: arguments that the kernel :func:`supports`.
        eps: added to the variance.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    norm = (dense(weight, a.dtype), dense(bias, a.dtype), None, None, eps)
    loaded_library().run_norm(form, x, None, y, None, a, b, None, None, *norm)


def backward_into(
    dx: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx <- the gradient of x, y <- F(LayerNorm(x)) if it is given.

    The gradients of the parameters are the same bits for any number of threads.

    Args:
        dx, y, grad: as many elements as x, contiguous, in x's dtype.
        x, weight, bias, numerator, denominator, eps, form: as in :func:`forward_into`.

    Returns:
        The gradients of weight, bias, numerator and denominator, in the dtype of the arithmetic.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    weight, bias = dense(weight, a.dtype), dense(bias, a.dtype)
    found = [torch.empty_like(tensor) for tensor in (weight, bias, a, b)]
    d_weight, d_bias, da, db = found
    norm = (weight, bias, d_weight, d_bias, eps)
    loaded_library().run_norm(form, x, grad, y, dx, a, b, da, db, *norm)
    return d_weight, d_bias, da, db
