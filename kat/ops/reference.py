"""The rational function in plain PyTorch: the definition that every backend is tested against.

    P(x) = a_0 + a_1 x + ... + a_m x^m
    form A:  Q(x) = 1 + sum_j |b_j| |x|^j,   j = 1..n
    form B:  Q(x) = 1 + |sum_j b_j x^j|,     j = 1..n
    F(x) = P(x) / Q(x)

Form A is what the released KAT kernels and checkpoints compute, form B is the equation printed in
the paper (Yang and Wang, arXiv 2409.10594, section 4.2).

The subgradients are d|b|/db = +1 at b = 0 and d|s|/ds = +1 at s = 0: with 0, a denominator that
starts at zero (the identity) would never train. At x = 0, d|x|/dx = 0.

F and its gradient consist of differentiable torch operations, so autograd, ``torch.func`` and
forward-mode AD work through them to any order. Powers of x overflow beyond about |x| = 1e7, in
float32 at degree 5; :mod:`kat.ops.plain` is F for x of any size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kat.ops.arguments import Rational, compute_dtype


def value(f: Rational, x: Tensor) -> Tensor:
    """F(x) = P(x) / Q(x), for x (..., G, D), all in one dtype."""
    return horner(x, f.numerator) / denominator(f, x)


def denominator(f: Rational, x: Tensor) -> Tensor:
    """Q(x) of form A or B."""
    if f.form == "B":
        return 1 + absolute(x * horner(x, f.denominator))
    even, odd = by_parity(absolute(f.denominator))
    square = x * x
    return 1 + square * horner(square, even) + x.abs() * horner(square, odd)


def gradients(f: Rational, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``sum(grad * F(x))`` for x, a and b.

    With r = 1/Q, y = P r and w = grad r:

        dx = w (P' - y Q')
        da_i = sum w x^i
        db_j = -sum w y dQ/db_j,  dQ/db_j = sgn(b_j) |x|^j (form A) or sgn(s) x^j (form B)

    where s = sum_j b_j x^j. Q^2, which overflows long before Q does, never appears.
    """
    a, b, form = f
    r = 1 / denominator(f, x)
    y = horner(x, a) * r
    w = grad * r
    da = power_sums(w, x, a.shape[1], rows=a.shape[0])
    p_slope = horner(x, derivative(a[:, 1:]))
    if form == "B":
        side = sign_of_sum(x, b)
        dx = w * (p_slope - y * side * horner(x, derivative(b)))
        return dx, da, -power_sums(w * y * side * x, x, b.shape[1], rows=b.shape[0])
    even, odd = by_parity(derivative(absolute(b)))
    square = x * x
    q_slope = x * horner(square, even) + x.sign() * horner(square, odd)
    of_even = power_sums(w * y * square, square, even.shape[1], rows=b.shape[0])
    of_odd = power_sums(w * y * x.abs(), square, odd.shape[1], rows=b.shape[0])
    db = -sign(b) * interleaved(of_odd, of_even)
    return w * (p_slope - y * q_slope), da, db


def horner(x: Tensor, coefficients: Tensor) -> Tensor:
    """sum_i c_i x^i, i = 0..k - 1, for x (..., G, D) and c (1 or G, k); 0 where k = 0."""
    if coefficients.shape[1] == 0:
        return torch.zeros_like(x)
    columns = coefficients[:, :, None].unbind(1)
    result = columns[-1].expand_as(x)
    for column in reversed(columns[:-1]):
        result = torch.addcmul(column, result, x)
    return result


# ---- the parts of the formula


def absolute(t: Tensor) -> Tensor:
    """|t|, with the derivative +1 at 0."""
    return t * sign(t)


def sign(t: Tensor) -> Tensor:
    """Return the sign, sgn(0) = +1: the subgradient of |t| with which zero coefficients train."""
    return torch.where(t < 0, -torch.ones_like(t), torch.ones_like(t))


def sign_of_sum(x: Tensor, b: Tensor) -> Tensor:
    """sgn(sum_j b_j x^j), j = 1..n, with sgn(0) = +1: exact even where powers of x underflow.

    A product in Horner's rule that underflows leaves a zero of its own sign, and adding -0 keeps
    the sign of every zero. So -0 takes the place of b_j = 0, and the sign bit of the sum is exact.
    The sign is a constant to differentiation.
    """
    x, b = x.detach(), b.detach()
    s = x * horner(x, torch.where(b == 0, -torch.zeros_like(b), b))
    negative = s.signbit() & (x != 0) & (b != 0).any(1)[:, None]
    return torch.where(negative, -torch.ones_like(x), torch.ones_like(x))


def by_parity(b: Tensor) -> tuple[Tensor, Tensor]:
    """b_2, b_4, ... and b_1, b_3, ...

    As powers of x^2, even powers of |x| have their derivatives at x = 0, where the derivatives of
    |x| itself are taken for 0.
    """
    return b[:, 1::2], b[:, ::2]


def interleaved(odd: Tensor, even: Tensor) -> Tensor:
    """Return the columns that :func:`by_parity` has divided."""
    columns = []
    for j in range(odd.shape[1] + even.shape[1]):
        columns.append((even if j % 2 else odd)[:, j // 2])
    return torch.stack(columns, 1) if columns else odd


def derivative(coefficients: Tensor) -> Tensor:
    """Return the coefficients of d/dx sum_i c_i x^i, i = 1..k, for c (1 or G, k)."""
    order = torch.arange(1, coefficients.shape[1] + 1, device=coefficients.device)
    return coefficients * order.to(coefficients.dtype)


def power_sums(w: Tensor, x: Tensor, count: int, *, rows: int) -> Tensor:
    """S_i = sum w x^i, i = 0..count - 1, over all but the groups: (G, count), or (1, count)."""
    groups = w.shape[-2]
    others = [dim for dim in range(w.ndim) if dim != w.ndim - 2]
    sums = w.new_zeros(groups, 0)
    for i in range(count):
        w = w * x if i else w
        sums = torch.cat([sums, w.sum(others)[:, None]], dim=1)
    return sums if rows == groups else sums.sum(0, keepdim=True)


# ---- groups, gates and dtypes


def forward(
    f: Rational,
    x: Tensor,
    v: Tensor | None = None,
    *,
    value: Callable[[Rational, Tensor], Tensor] = value,
) -> Tensor:
    """F(x) = P(x) / Q(x), one function for each contiguous group of channels; or F(x) v.

    Args:
        f: the numerator (1 or G, m + 1), a_0 first, the denominator (1 or G, n), b_1 first, and the
            form. The groups share a single row.
        x: (..., C), any floating dtype; see :func:`kat.ops.arguments.compute_dtype`.
        v: of x's shape and dtype.
        value: computes F for x in groups.

    Returns:
        F(x), with x's shape and dtype, rounded once.
    """
    y = value(_computed(f, x), _in_groups(f, x)).reshape(x.shape)
    return (y if v is None else y * v.to(y.dtype)).to(x.dtype)


def backward(
    f: Rational,
    grad: Tensor,
    x: Tensor,
    v: Tensor | None = None,
    *,
    value: Callable[[Rational, Tensor], Tensor] = value,
    gradients: Callable[[Rational, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = gradients,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of ``sum(grad * F(x))`` for x, numerator, denominator and v.

    Of F(x) v, these are the gradients for ``grad * v``, and dv = grad F(x).

    Args:
        f, x, v, value: as in :func:`forward`.
        grad: gradient with respect to the output, of x's shape.
        gradients: computes them for x in groups.

    Returns:
        dx, with x's shape and dtype; da and db with the coefficients' shapes and dtypes; and dv,
        None without v.
    """
    g = grad.to(compute_dtype(x.dtype))
    dv = None
    if v is not None:
        dv = (g * forward(f, x.to(g.dtype), value=value)).to(v.dtype)
        g = g * v.to(g.dtype)
    z = _in_groups(f, x)
    dx, da, db = gradients(_computed(f, x), g.reshape(z.shape), z)
    dx = dx.reshape(x.shape).to(x.dtype)
    return dx, da.to(f.numerator.dtype), db.to(f.denominator.dtype), dv


def _computed(f: Rational, x: Tensor) -> Rational:
    """F in the dtype of the arithmetic."""
    dtype = compute_dtype(x.dtype)
    return Rational(f.numerator.to(dtype), f.denominator.to(dtype), f.form)


def _in_groups(f: Rational, x: Tensor) -> Tensor:
    """x as (..., G, C / G), in the dtype of the arithmetic."""
    return x.to(compute_dtype(x.dtype)).unflatten(-1, (f.groups, x.shape[-1] // f.groups))
