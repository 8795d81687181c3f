"""The CPU kernel of the gate F(x) v as a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from kat.ops.cpu import backend
from kat.ops.cpu.backend import dense_coefficients, loaded_library

DEVICE_TYPE = backend.DEVICE_TYPE
supports = backend.supports
check_available = backend.check_available


def forward_into(
    y: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> None:
    """y <- F(x) v.

    Args:
        y: as many elements as x, contiguous, in memory of its own.
        x, v: (rows, channels), not empty, with contiguous channels and rows of one stride.
        numerator, denominator, form: arguments that the kernel :func:`supports`.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    loaded_library().run_gated(form, x, v, None, y, None, None, a, b)


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

    The gradients of the coefficients are the same bits for any number of threads.

    Args:
        dx, dv: (rows, channels), with contiguous channels and rows of one stride.
        y, grad: as many elements as x, contiguous, in x's dtype.
        x, v, numerator, denominator, form: as in :func:`forward_into`.

    Returns:
        The gradients of numerator and denominator, in the dtype of the arithmetic.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    da, db = torch.empty_like(a), torch.empty_like(b)
    loaded_library().run_gated(form, x, v, grad, y, dx, dv, a, b, da, db)
    return da, db
