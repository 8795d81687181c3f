"""F(LayerNorm(x)) and its gradients in plain PyTorch: what its kernels are tested against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kat.ops import reference
from kat.ops.arguments import compute_dtype

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Those of x, weight, bias, numerator and denominator."""


def plain_layer_norm_rational(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> Tensor:
    """F(LayerNorm(x)) in plain operations, for exported graphs; see :mod:`kat.ops.reference`."""
    z = normalized(x, weight, bias, eps)
    return reference.plain_rational(z, numerator, denominator, form).to(x.dtype)


def layer_norm_rational(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> Tensor:
    """F(LayerNorm(x)), rounded once to x's dtype; differentiable to any order."""
    z = normalized(x, weight, bias, eps)
    return reference.rational(z, numerator, denominator, form).to(x.dtype)


def normalized(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) over the last dimension, in the dtype of the arithmetic."""
    dtype = compute_dtype(x.dtype)
    return functional.layer_norm(x.to(dtype), x.shape[-1:], weight.to(dtype), bias.to(dtype), eps)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
    *,
    of_rational: Callable[..., tuple[Tensor, Tensor, Tensor]] = reference.backward,
) -> Gradients:
    """The gradients of ``sum(grad * F(LayerNorm(x)))``, differentiable.

    With n = (x - mean) / std, z = n weight + bias and dz the gradient of z:

        dweight = sum dz n,   dbias = sum dz
        dx = (g - mean(g) - n mean(g n)) / std,   g = dz weight

    Args:
        grad, x, weight, bias, numerator, denominator, eps, form: as of the operator.
        of_rational: the gradients of F, as :func:`kat.ops.reference.backward`.
    """
    dtype = compute_dtype(x.dtype)
    centered = x.to(dtype)
    for _ in range(2):  # the first mean is rounded, by much if it is large
        centered = centered - centered.mean(-1, keepdim=True)
    r = torch.rsqrt((centered * centered).mean(-1, keepdim=True) + eps)
    n = centered * r
    z = n * weight.to(dtype) + bias.to(dtype)  # torch's LayerNorm is wrong in third derivatives
    dz, da, db = of_rational(grad.to(dtype), z, numerator, denominator, form)
    g = dz * weight.to(dtype)
    dx = r * (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True))
    rows = tuple(range(x.dim() - 1))
    d_weight, d_bias = (t.sum(rows) if rows else t for t in (dz * n, dz))
    return dx.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(bias.dtype), da, db
