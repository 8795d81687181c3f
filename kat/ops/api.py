"""The one public call: checks its arguments, then hands over to a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from kat.ops import eager, reference
from kat.ops.cpu import kernel as cpu
from kat.ops.torch_internals import in_function_transform
from kat.ops.triton import backend as gpu

FORMS = ("A", "B")


def _rational_cpu(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    cpu.require(x, numerator, denominator)
    return torch.ops.kat.rational.default(x, numerator, denominator, form)


IMPLEMENTATIONS = {
    "reference": reference.rational,
    "cpu": _rational_cpu,
    "triton": gpu.rational,
}
"""Backends that may be asked for by name. None calls the operator, which picks by device."""


def rational(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    *,
    form: str = "A",
    impl: str | None = None,
) -> Tensor:
    """F(x) = P(x) / Q(x), the safe Padé unit, with one function for each group of channels.

        P(x) = a_0 + a_1 x + ... + a_m x^m
        form A:  Q(x) = 1 + sum_j |b_j| |x|^j      (the released kernels and checkpoints)
        form B:  Q(x) = 1 + |sum_j b_j x^j|        (the equation printed in the paper)

    The C channels are cut into G contiguous groups of C / G. A coefficient tensor has G rows, or
    one row that all groups share; G is the larger of the two row counts.

    Args:
        x: (..., C), float16, bfloat16, float32 or float64. The arithmetic is float64 for float64
            and float32 for all others.
        numerator: (1 or G, m + 1) with m >= 1, a_0 first, any floating dtype.
        denominator: (1 or G, n) with n >= 0, b_1 first, any floating dtype.
        form: ``"A"`` or ``"B"``.
        impl: None takes the fastest backend that x's device has, and inside ``torch.func``
            transforms and forward-mode AD the reference. A name takes that backend or raises:
            ``"reference"`` is plain PyTorch (any order of derivative, ``torch.func``), ``"cpu"``
            the C++ kernel, ``"triton"`` the GPU kernels.

    Returns:
        F(x), with x's shape and dtype. Differentiable for x and both coefficient tensors.

    Raises:
        ValueError: shapes that do not fit together, an unknown form or backend, a backend that
            is not of x's device.
        RuntimeError: a backend that was asked for by name cannot be had, or not in a ``torch.func``
            transform; the message says why.
        TypeError: tensors that are not floating point.

    Source: Yang and Wang, Kolmogorov-Arnold Transformer, section 4, arXiv 2409.10594; Molina,
    Schramowski and Kersting, Padé Activation Units, arXiv 1907.06732.

    Example:
        >>> x = torch.randn(2, 197, 192)
        >>> identity = torch.tensor([[0., 1., 0., 0., 0., 0.]])
        >>> y = kat.rational(x, identity, torch.zeros(8, 4))
    """
    _check(x, numerator, denominator, form)
    if in_function_transform():
        impl = _of_transform(impl)
    if impl is None:
        if eager.takes(x, numerator, denominator):
            return eager.rational(x, numerator, denominator, form)
        return torch.ops.kat.rational.default(x, numerator, denominator, form)
    if impl not in IMPLEMENTATIONS:
        available = ", ".join(repr(name) for name in IMPLEMENTATIONS)
        raise ValueError(f"impl={impl!r} is not available here; choose None or one of {available}")
    return IMPLEMENTATIONS[impl](x, numerator, denominator, form)


def _of_transform(impl: str | None) -> str:
    """The backend for ``torch.func`` transforms and forward-mode AD: the reference, or an error."""
    if impl in ("cpu", "triton"):
        raise RuntimeError(
            f"impl={impl!r} does not work inside torch.func transforms and forward-mode AD; take"
            " impl='reference', or None, which takes it there"
        )
    return impl or "reference"


def _check(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form must be 'A' or 'B', got {form!r}")
    for name, tensor in (("x", x), ("numerator", numerator), ("denominator", denominator)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} must be dense, got a {tensor.layout} tensor")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, but x is on {x.device}")
    if numerator.dim() != 2 or numerator.shape[1] < 2:
        raise ValueError(
            "numerator must be (groups, m + 1) with degree m >= 1,"
            f" got shape {tuple(numerator.shape)}"
        )
    if denominator.dim() != 2:
        raise ValueError(f"denominator must be (groups, n), got shape {tuple(denominator.shape)}")
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension, the channels")
    groups = max(numerator.shape[0], denominator.shape[0])
    for name, tensor in (("numerator", numerator), ("denominator", denominator)):
        if tensor.shape[0] not in (1, groups):
            raise ValueError(
                f"{name} has {tensor.shape[0]} rows; with {groups} groups it must have"
                f" {groups} rows, or 1 to share one function"
            )
    if x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} channels cannot be cut into {groups} equal groups")
