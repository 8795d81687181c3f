"""The rounding errors that a backend may make, beside the reference in float64.

A rounding error is relative to the terms of a sum, not to the sum, so each value has a scale: its
formula with every sum replaced by the sum of the magnitudes of its terms (P~, Q~ and so on). With
kappa = Q~ / Q, which is 1 in form A, k = kappa^2, and g the gradient of the output,

    value                                  scale
    y    = P / Q                           k P~ / Q~
    dx   = g (P' - y Q') / Q               k^2 |g| (P'~ + (P~ / Q~) Q'~) / Q~
    da_i = sum g x^i / Q                   k sum |g| |x|^i / Q~
    db_j = -sum g y q_j / Q,  q_j = dQ/db_j    k^2 sum |g| (P~ / Q~) |x|^j / Q~

The tolerance is steps (u scale + eta size) + v |exact| + eta_out, with steps = m + n + 4 and, for a
sum of N terms, N more. u and eta are the unit roundoff and the smallest number of the arithmetic
(float64 for float64, else float32), v and eta_out of the result. The size is 1 or, where that
is larger, P~ / Q~ or |x|^j / Q~: a product may underflow before it is multiplied by them. In
float64, where the reference rounds too, u is twice as large. Values beyond the maximum of a dtype
count as that maximum; a sum whose terms exceed it may be infinite, and nothing may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kat.ops import plain
from kat.ops.arguments import Rational, compute_dtype

NAN = 1e99
"""The error / tolerance of NaN."""


def ratios(
    found: Sequence[Tensor], f: Rational, grad: Tensor, x: Tensor, *, truncates: bool = False
) -> list[Tensor]:
    """Return error / tolerance of each element; above 1 it is wrong.

    Args:
        found: y, dx, da and db, or the first of them.
        f: the function, with coefficients in the dtype of the arithmetic.
        grad: of the output.
        x: as in :func:`kat.rational`.
        truncates: the backend cuts values off where it should round them.
    """
    arithmetic = torch.finfo(compute_dtype(x.dtype))
    largest, count = torch.finfo(x.dtype).max, x.numel()
    unit = arithmetic.eps / (1 if x.dtype == torch.float64 else 2)
    grad, x, a, b = (t.double().cpu() for t in (grad, x, f.numerator, f.denominator))
    f = Rational(a, b, f.form)
    steps = sum(f.degree) + 4
    dx, da, db, _ = plain.backward(f, grad, x)
    exact = plain.forward(f, x), dx, da, db
    y_scale, dx_scale, da_scale, db_scale, size = _scales(f, grad.abs(), x)
    size_of_terms = grad.abs() * size

    def allowed(scale: Tensor, size: Tensor, steps: int, limit: float = math.inf) -> Tensor:
        """Return the error of the arithmetic; any, where the terms exceed a limit."""
        computed = steps * (unit * scale + arithmetic.tiny * arithmetic.eps * size)
        return computed.where(scale <= limit, math.inf)

    def of_sums(scale: Tensor) -> Tensor:
        rows = len(scale)
        sums = size_of_terms.reshape(-1, rows, x.shape[-1] // rows).sum((0, 2))
        return allowed(scale, sums[:, None], steps + count // rows, arithmetic.max)

    tolerances = (
        allowed(y_scale, size, steps),
        allowed(dx_scale, size_of_terms, steps, largest),
        of_sums(da_scale),
        of_sums(db_scale),
    )
    return [
        _ratio(got, want, tolerance, truncates)
        for got, want, tolerance in zip(found, exact, tolerances, strict=False)
    ]


def _scales(f: Rational, weight: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Return the scales of y, dx, da and db, and the size; weight: |g|."""
    a, b, form = f
    n = b.shape[1]
    units = torch.eye(n + 1, dtype=x.dtype, device=x.device)
    even = units[:1] + units[n - n % 2]
    even_over_q = plain.forward(Rational(even, b, form), x)
    x, a, b = x.abs(), a.abs(), b.abs()

    def over_q(coefficients: Tensor) -> Tensor:
        return plain.forward(Rational(coefficients, b, "B"), x)

    k = (even_over_q / over_q(even)) ** 2
    y = over_q(a)
    degrees = torch.arange(1, a.shape[1], dtype=x.dtype, device=x.device)
    p_slope = k**2 * weight * over_q(a[:, 1:] * degrees)
    all_positive = Rational(a, b, "B")
    _, da, _, _ = plain.backward(all_positive, k * weight, x)
    difference, _, db, _ = plain.backward(all_positive, k**2 * weight, x)
    size = torch.maximum(y, over_q(units[n:])).clamp(min=1)
    return k * y, 2 * p_slope - difference, da, db.abs(), size


def _ratio(got: Tensor, exact: Tensor, tolerance: Tensor, truncates: bool) -> Tensor:
    result = torch.finfo(got.dtype)
    exact, got = (t.double().cpu().clamp(-result.max, result.max) for t in (exact, got))
    rounded = exact.abs() * result.eps * (1 if truncates else 0.5)
    smallest = result.tiny * (1 if truncates else result.eps)
    ratio = (got - exact).abs() / (tolerance + rounded + smallest)
    return ratio.masked_fill(got.isnan(), NAN)
