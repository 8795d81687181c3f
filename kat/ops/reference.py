"""The rational function in plain PyTorch: the definition that every backend is tested against.

    P(x) = a_0 + a_1 x + ... + a_m x^m
    form A:  Q(x) = 1 + sum_j |b_j| |x|^j,   j = 1..n
    form B:  Q(x) = 1 + |sum_j b_j x^j|,     j = 1..n
    F(x) = P(x) / Q(x)

Form A is what the released KAT kernels and checkpoints compute, form B is the equation printed in
the paper (Yang and Wang, arXiv 2409.10594, section 4.2).

F and its gradient consist of differentiable torch operations, so autograd, ``torch.func`` and
forward-mode AD work through them to any order. Where powers of x would overflow,
:mod:`kat.ops.scaled` takes over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kat.ops import scaled
from kat.ops.arguments import compute_dtype
from kat.ops.scaled import horner, sign, sign_of_sum
from kat.ops.torch_internals import (
    in_function_transform,
    in_vmap,
    is_eager,
    is_exporting,
    is_known_batch_of_gradients,
)


def rational(
    x: Tensor, numerator: Tensor, denominator: Tensor, v: Tensor | None = None, *, form: str
) -> Tensor:
    """F(x), or F(x) v, of :func:`forward`, with the gradient of :func:`backward`.

    That gradient needs the inputs alone and does not overflow. ``torch.func`` transforms,
    forward-mode AD and exported programs differentiate :func:`forward` themselves.
    """
    if v is not None:
        dtype = compute_dtype(x.dtype)
        y = rational(x.to(dtype), numerator, denominator, form=form)
        return (y * v.to(dtype)).to(x.dtype)
    if in_function_transform() or is_exporting():
        return forward(x, numerator, denominator, form=form)
    return _Rational.apply(x, numerator, denominator, form)


class _Rational(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator)
        ctx.form = form
        return forward(x, numerator, denominator, form=form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, numerator, denominator = ctx.saved_tensors
        dx, da, db, _ = backward(grad, x, numerator, denominator, form=ctx.form)
        return dx, da, db, None


def forward(
    x: Tensor, numerator: Tensor, denominator: Tensor, v: Tensor | None = None, *, form: str
) -> Tensor:
    """F(x) = P(x) / Q(x), one function for each contiguous group of channels; or F(x) v.

    Args:
        x: (..., C), any floating dtype; see :func:`kat.ops.arguments.compute_dtype`.
        numerator: (1 or G, m + 1), a_0 first; the groups share a single row.
        denominator: (1 or G, n), b_1 first; the groups share a single row.
        v: of x's shape and dtype.
        form: ``"A"`` or ``"B"``.

    Returns:
        F(x), with x's shape and dtype, rounded once.
    """
    z, a, b = _grouped(x, numerator, denominator)
    limit = _limit(z, a, b)
    if _can_read(z, a, b) and _needs_no_scaling(limit, z):
        y = _value(z, a, b, form)
    else:
        within = z.abs() <= limit
        y = _value(z.where(within, 0), a, b, form)
        y = y.where(within, scaled.forward(z.where(~within, 0), a, b, form))
    y = y.reshape(x.shape)
    return (y if v is None else y * v.to(y.dtype)).to(x.dtype)


def plain_rational(
    x: Tensor, numerator: Tensor, denominator: Tensor, v: Tensor | None = None, *, form: str
) -> Tensor:
    """F(x), or F(x) v, by :func:`plain_forward`, for b_j of any sign."""
    b = denominator.abs() if form == "A" else denominator
    y = plain_forward(x, numerator, b, form=form)
    return y if v is None else y * v


def plain_forward(x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str) -> Tensor:
    """F(x) in a dozen plain operations, for exported graphs and inference.

    Equal to :func:`forward` where no power of x overflows: up to about |x| = 1e7 in float32 at
    degree 5. Beyond that the result may be infinite or NaN.

    Args:
        x, numerator, form: as in :func:`forward`.
        denominator: as in :func:`forward`; in form A, all b_j >= 0.
    """
    z, a, b = _grouped(x, numerator, denominator)
    s = z.abs() * horner(z.abs(), b) if form == "A" else (z * horner(z, b)).abs()
    return (horner(z, a) / (1 + s)).reshape(x.shape).to(x.dtype)


def backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of ``sum(grad * F(x))`` for x, numerator, denominator and v.

    With r = 1/Q, y = P r and w = grad r:

        dx = w (P' - y Q')
        da_i = sum w x^i
        db_j = -sum w y dQ/db_j,  dQ/db_j = sgn(b_j) |x|^j (form A) or sgn(s) x^j (form B)

    where s = sum_j b_j x^j. Q^2, which overflows long before Q does, never appears. The
    subgradients are d|b|/db = +1 at b = 0 and d|s|/ds = +1 at s = 0: with 0, a denominator that
    starts at zero (the identity) would never train. At x = 0, d|x|/dx = 0.

    Of F(x) v, these are the gradients for ``grad * v``, and dv = grad F(x).

    Args:
        grad: gradient with respect to the output, of x's shape.
        x, numerator, denominator, v, form: as in :func:`forward`.

    Returns:
        dx, with x's shape and dtype; da and db with the coefficients' shapes and dtypes; and dv,
        None without v.

    Raises:
        RuntimeError: ``grad`` is a batch of gradients, and some x is huge.
    """
    if v is not None:
        dtype = compute_dtype(x.dtype)
        z, grad = x.to(dtype), grad.to(dtype)
        dx, da, db, _ = backward(grad * v.to(dtype), z, numerator, denominator, form=form)
        dv = grad * forward(z, numerator, denominator, form=form)
        return dx.to(x.dtype), da, db, dv.to(v.dtype)
    z, a, b = _grouped(x, numerator, denominator)
    grad = grad.reshape(z.shape).to(z.dtype)
    limit = _limit(z, a, b)
    if _can_read(z, a, b) and _needs_no_scaling(limit, z, grad):
        dx, da, db = _gradients(grad, z, a, b, form)
    elif not torch.compiler.is_compiling() and is_known_batch_of_gradients(grad):
        raise RuntimeError(
            "impl='reference' does not take batches of gradients (is_grads_batched=True) of huge x:"
            " PyTorch cannot batch all of its operations; use impl=None, or torch.func.vmap"
        )
    else:
        ordinary = (z.abs() <= limit) & _is_ordinary(grad)
        few = scaled.backward(grad.where(~ordinary, 0), z.where(~ordinary, 0), a, b, form)
        many = _gradients(grad.where(ordinary, 0), z.where(ordinary, 0), a, b, form)
        dx, da, db = many[0].where(ordinary, few[0]), many[1] + few[1], many[2] + few[2]
    return dx.reshape(x.shape).to(x.dtype), da.to(numerator.dtype), db.to(denominator.dtype), None


def _gradients(
    grad: Tensor, z: Tensor, a: Tensor, b: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    r = 1 / _denominator(z, b, form)
    y = horner(z, a) * r
    w = grad * r
    da = _power_sums(w, z, a.shape[1], rows=a.shape[0])
    p_slope = horner(z, _derivative(a[:, 1:]))
    if form == "A":
        even, odd = _by_parity(_derivative(b * sign(b)))
        square, v = z * z, w * y
        q_slope = z * horner(square, even) + z.sign() * horner(square, odd)
        sums = [
            _power_sums(v * first, square, c.shape[1], rows=b.shape[0])
            for first, c in ((z.abs(), odd), (square, even))
        ]
        columns = [sums[j % 2][:, j // 2] for j in range(b.shape[1])]
        db = -torch.stack(columns, 1) * sign(b) if columns else torch.zeros_like(b)
        return w * (p_slope - y * q_slope), da, db
    side = sign_of_sum(z, b)
    dx = w * (p_slope - y * side * horner(z, _derivative(b)))
    return dx, da, -_power_sums(w * y * side * z, z, b.shape[1], rows=b.shape[0])


def _value(z: Tensor, a: Tensor, b: Tensor, form: str) -> Tensor:
    return horner(z, a) / _denominator(z, b, form)


def _limit(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the largest |z| that needs no scaling: |P z^n| <= 2^88 and Q <= 2^40 in float32.

    NaN if a coefficient is NaN, so that no z is within it.
    """
    room = _room(z)
    degree_p, degree_q = a.shape[1] - 1, b.shape[1]
    size_p, size_q = ((1 + c.detach().abs().sum()).log2() for c in (a, b))
    within_p = (88 * room - size_p) / max(1, degree_p + degree_q)
    within_q = (40 * room - size_q) / max(1, degree_q)
    return torch.minimum(within_p, within_q).exp2()


def _is_ordinary(grad: Tensor) -> Tensor:
    """Return True where grad F / Q does not underflow, nor a sum of a million terms overflow."""
    size, room = grad.detach().abs(), _room(grad)
    return (size == 0) | (size >= 2.0 ** (-40 * room)) & (size <= 2.0 ** (20 * room))


def _room(z: Tensor) -> int:
    """Return the range of z's exponents, as a multiple of float32's."""
    return 8 if z.dtype == torch.float64 else 1


def _can_read(z: Tensor, a: Tensor, b: Tensor) -> bool:
    """Return True if Python may read the values to choose whether to scale.

    Not while a graph is compiled, traced or captured, nor under ``vmap``, nor on the meta device.
    """
    return is_eager(z, a, b) and not (in_vmap() or z.is_meta or _is_captured(z))


def _is_captured(z: Tensor) -> bool:
    """Return True while a graph of CUDA or XPU records what the device does."""
    module = getattr(torch, z.device.type, None)
    return bool(getattr(module, "is_current_stream_capturing", bool)())


def _needs_no_scaling(limit: Tensor, z: Tensor, grad: Tensor | None = None) -> bool:
    """Return True if all is ordinary. It is read once, because Python waits for a GPU meanwhile.

    A batch of gradients hides its values, and is taken for ordinary.
    """
    if z.numel() == 0:
        return True
    low, high = z.detach().aminmax()
    ordinary = (-limit <= low) & (high <= limit)
    if grad is not None and is_eager(grad):
        ordinary = ordinary & _is_ordinary(grad).all()
    return bool(ordinary)


def _grouped(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x as (..., G, C / G) and the coefficients, all in the dtype of the arithmetic."""
    dtype = compute_dtype(x.dtype)
    groups = max(numerator.shape[0], denominator.shape[0])
    z = x.to(dtype).unflatten(-1, (groups, x.shape[-1] // groups))
    return z, numerator.to(dtype), denominator.to(dtype)


def _denominator(x: Tensor, b: Tensor, form: str) -> Tensor:
    """Q(x) for x (..., G, D) and b (1 or G, n)."""
    if form == "A":
        (even, odd), square = _by_parity(b * sign(b)), x * x
        return 1 + square * horner(square, even) + x.abs() * horner(square, odd)
    return 1 + x * horner(x, b) * sign_of_sum(x, b)


def _by_parity(b: Tensor) -> tuple[Tensor, Tensor]:
    """b_2, b_4, ... and b_1, b_3, ...

    As powers of x^2, even powers of |x| have their derivatives at x = 0, where the derivatives of
    |x| itself are taken for 0.
    """
    return b[:, 1::2], b[:, ::2]


def _derivative(coefficients: Tensor) -> Tensor:
    """Return the coefficients of d/dx sum_i c_i x^i, i = 1..k, for c (1 or G, k)."""
    order = torch.arange(1, coefficients.shape[1] + 1, device=coefficients.device)
    return coefficients * order.to(coefficients.dtype)


def _power_sums(w: Tensor, x: Tensor, count: int, *, rows: int) -> Tensor:
    """S_i = sum w x^i, i = 0..count - 1, over all but the groups: (G, count), or (1, count)."""
    groups = w.shape[-2]
    others = [dim for dim in range(w.ndim) if dim != w.ndim - 2]
    sums = w.new_zeros(groups, 0)
    for i in range(count):
        w = w * x if i else w
        sums = torch.cat([sums, w.sum(others)[:, None]], dim=1)
    return sums if rows == groups else sums.sum(0, keepdim=True)
