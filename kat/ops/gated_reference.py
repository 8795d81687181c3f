"""F(x) v and its gradients in plain PyTorch: what the kernels of the gate are tested against."""

from __future__ import annotations

from torch import Tensor

from kat.ops import reference
from kat.ops.arguments import compute_dtype

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""Those of x, v, numerator and denominator."""


def plain_gated_rational(
    x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Tensor:
    """F(x) v in plain operations, for exported graphs; see :func:`reference.plain_rational`."""
    return reference.plain_rational(x, numerator, denominator, form) * v


def gated_rational(
    x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Tensor:
    """F(x) v, rounded once to x's dtype; differentiable to any order."""
    dtype = compute_dtype(x.dtype)
    f = reference.rational(x.to(dtype), numerator, denominator, form)
    return (f * v.to(dtype)).to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    """The gradients by the reference, differentiable."""
    dtype = compute_dtype(x.dtype)
    z, grad = x.to(dtype), grad.to(dtype)
    dx, da, db = reference.backward(grad * v.to(dtype), z, numerator, denominator, form)
    dv = grad * reference.forward(z, numerator, denominator, form)
    return dx.to(x.dtype), dv.to(v.dtype), da, db


def forward(x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x) v, rounded once to x's dtype; the derivative of the first order is not the formula's."""
    dtype = compute_dtype(x.dtype)
    f = reference.forward(x.to(dtype), numerator, denominator, form)
    return (f * v.to(dtype)).to(x.dtype)
