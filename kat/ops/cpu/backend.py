"""The CPU kernel as a backend: which arguments it supports, and its forward and backward pass."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from kat.errors import BackendUnavailable
from kat.ops.arguments import Rational, compute_dtype
from kat.ops.cpu.library import DTYPES, Library, find_library, in_range, loaded_library
from kat.ops.torch_internals import constant_when_compiled
from kat.ops.warning import warn_once

CONVERTS = False
DEVICE_TYPE = "cpu"
MAX_DEGREE = 16


def supports(
    f: Rational, x: Tensor, v: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> bool:
    """Return True if the kernel takes x of this dtype and coefficients of this degree.

    Warns once if the library is unavailable.
    """
    if x.dtype not in DTYPES or max(f.degree) > MAX_DEGREE:
        return False
    library = find_library()
    if isinstance(library, Library):
        return True
    if os.environ.get("KAT_CPU_KERNEL") != "off":
        warn_once(
            f"kat's CPU kernel is unavailable, so the slower PyTorch reference runs: {library}"
            " (KAT_CPU_KERNEL=off selects the reference without this warning)",
            RuntimeWarning,
        )
    return False


def check_available(
    f: Rational, x: Tensor, v: Tensor | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Check that the kernel takes these arguments.

    Raises:
        ValueError: x is not on the CPU.
        BackendUnavailable: there is no library, or it does not support the dtype or the degrees.
    """
    if x.device.type != "cpu":
        raise ValueError(f"impl='cpu' needs x on the cpu, but x is on {x.device}")
    reason = _unavailable(f.degree)
    if reason:
        raise BackendUnavailable(f"impl='cpu' is unavailable: {reason}")


def forward(f: Rational, x: Tensor, v: Tensor | None = None, *, y: Tensor) -> None:
    """y <- F(x), or F(x) v.

    Args:
        f: a function that the kernel :func:`supports`.
        x: not empty. One that is not laid out like y is copied.
        v: of x's shape and dtype.
        y: of x's shape and dtype, in memory of its own: the kernel reads large x again after it has
            written y. Dense; contiguous if there is a v.
    """
    f = dense(f, x)
    if v is None:
        x = laid_out_like(y, x)
    else:
        x, v = _rows(x, v)
    library = loaded_library()
    in_range(library.call(library.arguments(f, x, v=v, y=y)))


def backward(
    f: Rational,
    grad: Tensor,
    x: Tensor,
    v: Tensor | None = None,
    *,
    dx: Tensor,
    dv: Tensor | None = None,
    y: Tensor | None = None,
    coefficients: bool = True,
) -> tuple[Tensor, Tensor] | None:
    """dx <- grad F'(x), or grad v F'(x) and dv <- grad F(x).

    Args:
        f, x, v: as in :func:`forward`.
        grad: the gradient of the output, of x's shape; it is cast to x's dtype.
        dx: like y in :func:`forward`. With a v, dx and dv may be the halves of one contiguous
            tensor.
        dv: if there is a v.
        y: where the output is stored too, from the same pass over memory; None: nowhere.
        coefficients: compute their gradients.

    Returns:
        The gradients of numerator and denominator, in the dtype of the arithmetic: the same bits
        for any number of threads. None if nobody asked for them.
    """
    f = dense(f, x)
    da = torch.empty_like(f.numerator) if coefficients else None
    db = torch.empty_like(f.denominator) if coefficients else None
    if v is None or dv is None:
        x, grad = laid_out_like(dx, x), laid_out_like(dx, grad)
    else:
        x, v = _rows(x, v)
        grad = grad.to(x.dtype).contiguous()
        dx, dv = dx.view(x.shape), dv.view(x.shape)
    library = loaded_library()
    call = library.arguments(f, x, v=v, y=y, grad=grad, dx=dx, dv=dv, da=da, db=db)
    in_range(library.call(call))
    return None if da is None or db is None else (da, db)


def dense(f: Rational, x: Tensor) -> Rational:
    """F as the kernel reads it: contiguous coefficients in the dtype of the arithmetic."""
    dtype = compute_dtype(x.dtype)
    a, b, form = f
    if a.dtype == b.dtype == dtype and a.is_contiguous() and b.is_contiguous():
        return f
    return Rational(a.to(dtype).contiguous(), b.to(dtype).contiguous(), form)


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
def _unavailable(degree: tuple[int, int]) -> str:
    """Return the reason why the kernel does not run for these arguments; empty if it does."""
    if max(degree) > MAX_DEGREE:
        return f"the kernel supports degrees up to {MAX_DEGREE}, got {degree}"
    library = find_library()
    return library if isinstance(library, str) else ""
