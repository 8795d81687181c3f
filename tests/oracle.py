"""An independent float64 statement of the function, term by term, for tests to compare with."""

from __future__ import annotations

import math
from typing import NamedTuple

import mpmath as mp
import numpy as np
import torch
from torch import Tensor


def rational_numpy(x: np.ndarray, a: np.ndarray, b: np.ndarray, form: str) -> np.ndarray:
    """F(x) for x (..., C), a (1 or G, m + 1), b (1 or G, n), channel by channel."""
    groups = max(len(a), len(b))
    y = np.empty(x.shape)
    for channel in range(x.shape[-1]):
        group = channel * groups // x.shape[-1]
        ai, bi = a[group % len(a)], b[group % len(b)]
        z = x[..., channel].astype(np.float64)
        numerator = sum(ai[i] * z**i for i in range(len(ai)))
        if form == "A":
            denominator = 1 + sum(abs(bi[j]) * np.abs(z) ** (j + 1) for j in range(len(bi)))
        else:
            denominator = 1 + np.abs(sum(bi[j] * z ** (j + 1) for j in range(len(bi))))
        y[..., channel] = numerator / denominator
    return y


def gradients_numpy(
    grad: np.ndarray, x: np.ndarray, a: np.ndarray, b: np.ndarray, form: str, step: float = 1e-6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, da, db of sum(grad * F(x)) by central differences; away from the kinks only."""

    def loss(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return float((grad * rational_numpy(x, a, b, form)).sum())

    results = []
    for position, tensor in enumerate((x, a, b)):
        slope = np.empty(tensor.shape)
        for index in np.ndindex(tensor.shape):
            moved = [t.astype(np.float64).copy() for t in (x, a, b)]
            moved[position][index] += step
            above = loss(*moved)
            moved[position][index] -= 2 * step
            slope[index] = (above - loss(*moved)) / (2 * step)
        results.append(slope)
    return results[0], results[1], results[2]


def random_case(
    shape: tuple[int, ...],
    rows: tuple[int, int],
    degree: tuple[int, int],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """x of the shape, and coefficients with these row counts; a third of b is negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    return normal(*shape), normal(rows[0], degree[0] + 1), normal(rows[1], degree[1]) + 0.2


class Exact(NamedTuple):
    """A value, and the size that its rounding errors are relative to: that of its terms.

    ``gain``: how often the smallest number of the dtype to compute in, which is lost where a power
    of x is subnormal, may come into the value.
    """

    value: mp.mpf
    scale: mp.mpf
    gain: mp.mpf


def rational_exactly(
    x: float, a: list[float], b: list[float], form: str, grad: float = 1.0
) -> dict[str, Exact]:
    """y, dx, and da_i and db_j ("a0", "b1", ...), for finite numbers, with exponents of any size.

    A denominator whose terms cancel (form B) loses digits for all that is divided by it.
    """
    with mp.workprec(400):
        t, g = mp.mpf(x), mp.mpf(grad)
        p, p_scale = _sum(c * t**i for i, c in enumerate(a))
        dp, dp_scale = _sum(i * c * t ** (i - 1) for i, c in enumerate(a) if i)
        base = abs(t) if form == "A" else t
        inner = [abs(c) if form == "A" else c for c in b]
        s, s_scale = _sum(c * base ** (j + 1) for j, c in enumerate(inner))
        ds, ds_scale = _sum((j + 1) * c * base**j for j, c in enumerate(inner))
        sign = 1 if s >= 0 else -1
        x_sign = mp.sign(t) if form == "A" else sign
        q, loss = 1 + abs(s), (1 + s_scale) / (1 + abs(s))
        y, y_scale = p / q, p_scale / q * loss
        dx = g * (dp - y * x_sign * ds) / q
        dx_scale = abs(g) / q * (dp_scale + y_scale * ds_scale * loss) * loss
        gain = (1 + abs(g)) * (1 + _sum(a)[1]) * (1 + _sum(b)[1])
        results = {"y": Exact(y, y_scale, gain), "dx": Exact(dx, dx_scale, gain)}
        for i in range(len(a)):
            term = g * t**i / q
            results[f"a{i}"] = Exact(term, abs(term) * loss, gain)
        for j, c in enumerate(b):
            term_sign = (1 if c >= 0 else -1) if form == "A" else sign
            power = base ** (j + 1) / q
            size = abs(g) * y_scale * abs(power) * loss
            results[f"b{j + 1}"] = Exact(-g * y * term_sign * power, size, gain)
        return results


def _sum(terms) -> tuple[mp.mpf, mp.mpf]:
    """The sum of the terms and the sum of their sizes."""
    values = [mp.mpf(term) for term in terms]
    return mp.fsum(values), mp.fsum(abs(value) for value in values)


def is_rounded(got: float, exact: Exact, dtype: torch.dtype, compute: torch.dtype) -> bool:
    """Whether ``got`` is the exact value to the rounding of arithmetic in the dtype to compute in.

    Where the exact value is beyond the dtype's maximum, infinity of its sign is right. Where the
    terms are, and cancel, so may be infinity.
    """
    if math.isnan(got):
        return False
    info = torch.finfo(dtype)
    smallest, smallest_inside = (t.smallest_normal * t.eps for t in (info, torch.finfo(compute)))
    tiny = 2 * smallest + 8 * smallest_inside * exact.gain
    allowed = 64 * torch.finfo(compute).eps * exact.scale + info.eps * abs(exact.value) + tiny
    if math.isinf(got):
        return abs(exact.value) + allowed > info.max and got * exact.value >= 0
    return abs(mp.mpf(got) - exact.value) <= allowed
