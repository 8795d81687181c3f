"""The CPU kernel as a backend: which arguments it supports, and its forward and backward pass."""

from __future__ import annotations

import functools
import os
import warnings

import torch
from torch import Tensor

from kat.errors import BackendUnavailable
from kat.ops.arguments import compute_dtype
from kat.ops.cpu.library import DTYPES, Library, find_library, loaded_library
from kat.ops.torch_internals import constant_when_compiled

CONVERTS = False
DEVICE_TYPE = "cpu"
MAX_DEGREE = 16


def supports(
    x: Tensor, numerator: Tensor, denominator: Tensor, form: str, v: Tensor | None = None
) -> bool:
    """Return True if the kernel takes x of this dtype and these degrees.

    Warns once if the library is unavailable.
    """
    if x.dtype not in DTYPES or max(numerator.shape[1] - 1, denominator.shape[1]) > MAX_DEGREE:
        return False
    library = find_library()
    if isinstance(library, Library):
        return True
    if os.environ.get("KAT_CPU_KERNEL") != "off":
        _warn(library)
    return False


def check_available(
    x: Tensor, numerator: Tensor, denominator: Tensor, form: str, v: Tensor | None = None
) -> None:
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


def forward(
    y: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    v: Tensor | None = None,
) -> None:
    """y <- F(x), or F(x) v.

    Args:
        y: of x's shape and dtype, in memory of its own: the kernel reads large x again after it has
            written y. Dense; contiguous if there is a v.
        x: not empty. One that is not laid out like y is copied.
        numerator, denominator, form: arguments that the kernel :func:`supports`.
        v: of x's shape and dtype.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    x, v = (laid_out_like(y, x), None) if v is None else _rows(x, v)
    loaded_library().run(form, x, None, y, None, a, b, v=v)


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
    """dx <- grad F'(x), or grad v F'(x) and dv <- grad F(x); y as in :func:`forward`, if given.

    Args:
        dx, y, x, numerator, denominator, form, v: as in :func:`forward`. With a v, dx and dv may be
            the halves of one contiguous tensor.
        grad: the gradient of the output, of x's shape; it is cast to x's dtype.
        dv: if there is a v.

    Returns:
        The gradients of numerator and denominator, in the dtype of the arithmetic: the same bits
        for any number of threads.
    """
    a, b = dense_coefficients(x, numerator, denominator)
    da, db = torch.empty_like(a), torch.empty_like(b)
    if v is None or dv is None:
        x, grad = laid_out_like(dx, x), laid_out_like(dx, grad)
    else:
        x, v = _rows(x, v)
        grad = grad.to(x.dtype).contiguous()
        dx, dv = dx.view(x.shape), dv.view(x.shape)
    loaded_library().run(form, x, grad, y, dx, a, b, da, db, v=v, dv=dv)
    return da, db


def dense_coefficients(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients as the kernel reads them: contiguous, in the dtype of the arithmetic."""
    dtype = compute_dtype(x.dtype)
    a, b = numerator, denominator
    if not (a.dtype == b.dtype == dtype and a.is_contiguous() and b.is_contiguous()):
        a, b = (tensor.to(dtype).contiguous() for tensor in (a, b))
    return a, b


def laid_out_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` with the strides and dtype of the pattern; a copy only if it has others.

    A pattern from ``empty_like(x)`` is dense, in x's own order of dimensions where x is dense. So
    channels last, (B, C, H, W) and any other permutation of a dense tensor are not copied.
    """
    if tensor.stride() == pattern.stride() and tensor.dtype == pattern.dtype:
        return tensor
    return torch.empty_like(pattern).copy_(tensor)


def _rows(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, channels) of both, with contiguous channels and rows of one stride.

    The halves of one tensor are such rows; tensors of another layout are copied.
    """
    shape = (x.shape[:-1].numel(), x.shape[-1])
    x, v = x.reshape(shape), v.reshape(shape)
    if x.stride() == v.stride() and x.stride(1) == 1:
        return x, v
    return x.contiguous(), v.contiguous()


@constant_when_compiled
def _unavailable(dtype: torch.dtype, m: int, n: int) -> str:
    """The reason why the kernel does not run for these arguments; empty if it does."""
    if dtype not in DTYPES:
        return f"the kernel does not support {dtype}"
    if max(m, n) > MAX_DEGREE:
        return f"the kernel supports degrees up to {MAX_DEGREE}, got ({m}, {n})"
    library = find_library()
    return library if isinstance(library, str) else ""


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"kat's CPU kernel is unavailable, so the slower PyTorch reference runs: {reason}"
        " (KAT_CPU_KERNEL=off selects the reference without this warning)",
        RuntimeWarning,
        stacklevel=3,
    )
