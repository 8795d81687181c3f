"""F in plain PyTorch for x of any size: what ``impl="reference"`` runs.

Ordinary values are computed by the formula of :mod:`kat.ops.reference`, and those whose powers
would overflow by :mod:`kat.ops.scaled`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kat.ops import reference, scaled
from kat.ops.arguments import Rational
from kat.ops.torch_internals import (
    in_function_transform,
    in_vmap,
    is_eager,
    is_exporting,
)


def rational(f: Rational, x: Tensor, v: Tensor | None = None) -> Tensor:
    """F(x), or F(x) v, with the gradient of :func:`backward`.

    That gradient needs the inputs alone and does not overflow. ``torch.func`` transforms,
    forward-mode AD and exported programs differentiate :func:`forward` themselves.
    """
    if in_function_transform() or is_exporting():
        return forward(f, x, v)
    return _Rational.apply(x, f.numerator, f.denominator, v, f.form)


class _Rational(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        v: Tensor | None,
        form: str,
    ) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator, v)
        ctx.form = form
        return forward(Rational(numerator, denominator, form), x, v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, numerator, denominator, v = ctx.saved_tensors
        f = Rational(numerator, denominator, ctx.form)
        dx, da, db, dv = backward(f, grad, x, v)
        return dx, da, db, dv, None


def _value(f: Rational, x: Tensor) -> Tensor:
    """F(x) for x (..., G, D), float32 or float64 like the coefficients."""
    limit = _limit(f, x)
    if _can_read(f, x) and _needs_no_scaling(limit, x):
        return reference.value(f, x)
    within = x.abs() <= limit
    y = reference.value(f, x.where(within, 0))
    return y.where(within, scaled.value(f, x.where(~within, 0)))


def _gradients(f: Rational, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dx, da and db of ``sum(grad * F(x))`` for x (..., G, D)."""
    limit = _limit(f, x)
    if _can_read(f, x) and _needs_no_scaling(limit, x, grad):
        return reference.gradients(f, grad, x)
    ordinary = (x.abs() <= limit) & _is_ordinary(grad)
    dx, da, db = reference.gradients(f, grad.where(ordinary, 0), x.where(ordinary, 0))
    few = scaled.gradients(f, grad.where(~ordinary, 0), x.where(~ordinary, 0))
    return dx.where(ordinary, few[0]), da + few[1], db + few[2]


forward = partial(reference.forward, value=_value)
"""F(x), or F(x) v, as :func:`kat.ops.reference.forward`."""
backward = partial(reference.backward, value=_value, gradients=_gradients)
"""The gradients, as :func:`kat.ops.reference.backward`."""


def _limit(f: Rational, x: Tensor) -> Tensor:
    """Return the largest |x| that needs no scaling: |P x^n| <= 2^88 and Q <= 2^40 in float32.

    NaN if a coefficient is NaN, so that no x is within it.
    """
    room = _room(x)
    m, n = f.degree
    size_p = (1 + f.numerator.detach().abs().sum()).log2()
    size_q = (1 + f.denominator.detach().abs().sum()).log2()
    within_p = (88 * room - size_p) / max(1, m + n)
    within_q = (40 * room - size_q) / max(1, n)
    return torch.minimum(within_p, within_q).exp2()


def _is_ordinary(grad: Tensor) -> Tensor:
    """Return True where grad F / Q does not underflow, nor a sum of a million terms overflow."""
    size, room = grad.detach().abs(), _room(grad)
    return (size == 0) | (size >= 2.0 ** (-40 * room)) & (size <= 2.0 ** (20 * room))


def _room(x: Tensor) -> int:
    """Return the range of x's exponents, as a multiple of float32's."""
    return 8 if x.dtype == torch.float64 else 1


def _can_read(f: Rational, x: Tensor) -> bool:
    """Return True if Python may read the values to choose whether to scale.

    Not while a graph is compiled, traced or captured, nor under ``vmap``, nor on the meta device.
    """
    if not is_eager(x, f.numerator, f.denominator):
        return False
    return not (in_vmap() or x.is_meta or _is_captured(x))


def _is_captured(x: Tensor) -> bool:
    """Return True while a graph of CUDA or XPU records what the device does."""
    module = getattr(torch, x.device.type, None)
    return bool(getattr(module, "is_current_stream_capturing", bool)())


def _needs_no_scaling(limit: Tensor, x: Tensor, grad: Tensor | None = None) -> bool:
    """Return True if all is ordinary. It is read once, because Python waits for a GPU meanwhile.

    A batch of gradients hides its values, and is taken for ordinary.
    """
    if x.numel() == 0:
        return True
    low, high = x.detach().aminmax()
    ordinary = (-limit <= low) & (high <= limit)
    if grad is not None and is_eager(grad):
        ordinary = ordinary & _is_ordinary(grad).all()
    return bool(ordinary)
