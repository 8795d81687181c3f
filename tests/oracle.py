"""An independent float64 statement of the function, term by term, for tests to compare with."""

from __future__ import annotations

import math
from typing import NamedTuple

import mpmath as mp
import numpy as np
import torch
from torch import Tensor

from kat.ops.arguments import compute_dtype


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
    of x is subnormal, may come into the value. ``partial``: how large a partial sum may become.
    """

    value: mp.mpf
    scale: mp.mpf
    gain: mp.mpf = mp.mpf(1)
    partial: mp.mpf = mp.mpf(0)


def rational_exactly(
    x: float,
    a: list[float],
    b: list[float],
    form: str,
    grad: float = 1.0,
    compute: torch.dtype = torch.float32,
) -> dict[str, Exact]:
    """y, dx, and da_i and db_j ("a0", "b1", ...), for finite numbers, with exponents of any size.

    A denominator whose terms cancel (form B) loses digits for all that is divided by it, and where
    rounding decides the sign of their sum, either will do. y, P' and Q' that are
    subnormal in the dtype to compute in have the errors of its smallest normal number.
    """
    info = torch.finfo(compute)
    with mp.workprec(_PRECISION):
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
        y, y_scale = p / q, max(p_scale / q * loss, info.smallest_normal)
        dp_scale, ds_scale = (max(scale, info.smallest_normal) for scale in (dp_scale, ds_scale))
        undecided = abs(s) < _ROUNDINGS * info.eps * s_scale
        either = 2 / (_ROUNDINGS * info.eps) if undecided else 0
        dx = g * (dp - y * x_sign * ds) / q
        dx_scale = abs(g) / q * (dp_scale + y_scale * ds_scale * (loss + either)) * loss
        results = {"y": Exact(y, y_scale), "dx": Exact(dx, dx_scale)}
        for i in range(len(a)):
            term = g * t**i / q
            results[f"a{i}"] = Exact(term, abs(term) * loss)
        for j, c in enumerate(b):
            term_sign = (1 if c >= 0 else -1) if form == "A" else sign
            power = base ** (j + 1) / q
            size = abs(g) * y_scale * abs(power) * (loss + either)
            results[f"b{j + 1}"] = Exact(-g * y * term_sign * power, size, 1 + y_scale)
        return results


_PRECISION = 250
_ROUNDINGS = 64
"""Roundings that may add up in a value: half of what Horner's rule can lose at degree (9, 8)."""


def _sum(terms) -> tuple[mp.mpf, mp.mpf]:
    """The sum of the terms and the sum of their sizes."""
    values = [mp.mpf(term) for term in terms]
    return mp.fsum(values), mp.fsum(abs(value) for value in values)


def is_rounded(got: float, exact: Exact, dtype: torch.dtype, compute: torch.dtype) -> bool:
    """Return True if ``got`` is the exact value up to rounding in the dtype to compute in.

    Where the exact value is beyond the dtype's maximum, infinity of its sign is right, and where a
    partial sum is, infinity of either sign. NaN never is.
    """
    info = torch.finfo(dtype)
    if math.isnan(got) or (math.isinf(got) and exact.partial > info.max):
        return not math.isnan(got)
    smallest, smallest_inside = (t.smallest_normal * t.eps for t in (info, torch.finfo(compute)))
    tiny = 2 * smallest + 8 * smallest_inside * exact.gain
    rounding = _ROUNDINGS * torch.finfo(compute).eps * exact.scale
    allowed = rounding + info.eps * abs(exact.value) + tiny
    if math.isinf(got):
        return abs(exact.value) + allowed > info.max and got * exact.value >= 0
    return abs(mp.mpf(got) - exact.value) <= allowed


def assert_near(
    results: tuple[Tensor, ...],
    exact: tuple[Tensor, ...],
    plain: tuple[Tensor, ...],
    slack: float = 2.0,
    names: tuple[str, ...] = ("y", "dx", "da", "db"),
) -> None:
    """Each error of (y, dx, da, db), or of the named, is at most so many times plain PyTorch's.

    Args:
        results: what is checked.
        exact: the same in float64.
        plain: by plain PyTorch in the dtypes of the results.
        slack: how many times.
        names: of the results.
    """
    arithmetic = torch.finfo(compute_dtype(results[0].dtype)).eps
    for name, got, want, other in zip(names, results, exact, plain, strict=True):
        assert got.shape == other.shape
        assert got.dtype == other.dtype
        if got.numel():
            eps = max(arithmetic, torch.finfo(got.dtype).eps)
            luck = 4 * eps * want.abs().max()  # plain's, with few elements
            bound = slack * ((other.double() - want).abs().max() + luck)
            assert (got.double() - want).abs().max() <= bound, name


class Elements:
    """Values of x and of the output's gradient, and what F and its gradients are for them, exactly.

    Args:
        x, grad: K of each; they are rounded to ``dtype``, those beyond its maximum to that.
        a, b: coefficients, K rows of each for K functions, or one row for all.
        form, dtype: as the operator has them.
        subnormal: whether y and dx below the dtype's smallest normal number are to be right.
    """

    def __init__(
        self, x, grad, a, b, form: str, dtype: torch.dtype, *, subnormal: bool = True
    ) -> None:
        self.form, self.dtype, self.subnormal = form, dtype, subnormal
        self.compute = torch.float64 if dtype == torch.float64 else torch.float32
        self.x, self.grad = (_clamped(values, dtype)[None] for values in (x, grad))
        self.a = torch.tensor(a, dtype=self.compute)
        self.b = torch.tensor(b, dtype=self.compute).reshape(len(b), -1)
        rows = [t.expand(len(x), -1).tolist() for t in (self.a, self.b)]
        self.exact = [
            rational_exactly(x, a, b, form, grad, self.compute)
            for x, grad, a, b in zip(self.x[0].tolist(), self.grad[0].tolist(), *rows, strict=True)
        ]

    def assert_right(self, results: tuple[Tensor, ...]) -> None:
        """Every value of (y, dx, da, db) is the exact one to rounding."""
        wrong = self.wrong(results)
        assert not wrong, f"{len(wrong)} are wrong: " + "\n".join(wrong[:5])

    def wrong(self, results: tuple[Tensor, ...]) -> list[str]:
        """A line for each value of (y, dx, da, db) that is not the exact one to rounding."""
        y, dx, da, db = (result.detach().tolist() for result in results)
        checked = [(i, "y", y[0][i]) for i in range(len(self.exact))]
        checked += [(i, "dx", dx[0][i]) for i in range(len(self.exact))]
        for letter, rows, first in (("a", da, 0), ("b", db, 1)):
            checked += [
                (i, f"{letter}{k}", value)
                for i, row in enumerate(rows)
                for k, value in enumerate(row, first)
            ]
        alone = len(da) == len(self.exact)
        return [
            self._line(i, name, value, exact)
            for i, name, value in checked
            for exact in [self.exact[i][name] if alone or name in ("y", "dx") else self._sum(name)]
            if not self._is_right(name, value, exact)
        ]

    def _is_right(self, name: str, value: float, exact: Exact) -> bool:
        of_x = name in ("y", "dx")
        tiny = torch.finfo(self.dtype).smallest_normal
        if of_x and not self.subnormal and max(abs(value), abs(exact.value)) <= 2 * tiny:
            return True
        return is_rounded(value, exact, self.dtype if of_x else self.compute, self.compute)

    def _sum(self, name: str) -> Exact:
        """The sum of the elements' terms; their errors add up."""
        terms = [exact[name] for exact in self.exact]
        value, scale, gain, _ = (mp.fsum(parts) for parts in zip(*terms, strict=True))
        return Exact(value, scale, gain, partial=scale)

    def _line(self, i: int, name: str, value: float, exact: Exact) -> str:
        x, grad = self.x[0, i].item(), self.grad[0, i].item()
        a, b = (t.expand(len(self.exact), -1)[i].tolist() for t in (self.a, self.b))
        return (
            f"{name} is {value}, exactly {mp.nstr(exact.value, 9)}: x={x!r}, grad={grad!r}, a={a},"
            f" b={b}, form {self.form}, {self.dtype}"
        )


def _clamped(values, dtype: torch.dtype) -> Tensor:
    limit = torch.finfo(dtype).max
    return torch.tensor(values, dtype=torch.float64).clamp(-limit, limit).to(dtype)


def random_elements(
    degree: tuple[int, int],
    form: str,
    dtype: torch.dtype,
    count: int,
    *,
    rows: int,
    subnormal: bool = True,
) -> Elements:
    """x and gradients of all sizes, and coefficients up to 1e6.

    rows: of coefficients, ``count`` or 1; subnormal: whether such x, gradients and results count.
    """
    rng = np.random.default_rng([*degree, count])
    info = torch.finfo(dtype)
    smallest = math.log2(info.smallest_normal * (info.eps if subnormal else 1))
    largest = math.log2(info.max)

    def spread(low: float, high: float, *size: int, special: tuple[float, ...] = (0.0,)):
        values = rng.choice([-1, 1], size) * np.exp2(rng.uniform(low, high, size))
        return np.where(rng.uniform(size=size) < 0.15, rng.choice(special, size), values)

    x = spread(smallest, largest, count, special=(0.0, 1.0, -1.0, info.max, -info.max))
    ordinary = np.exp2(rng.uniform(-6, 6, count)) * rng.choice([-1, 1], count)
    x = np.where(rng.uniform(size=count) < 0.3, ordinary, x)
    grad = spread(smallest, largest, count, special=(0.0, 1.0, -1.0, info.max, -info.max))
    a, b = (spread(-20, math.log2(1e6), rows, k) for k in (degree[0] + 1, degree[1]))
    return Elements(x, grad, a, b, form, dtype, subnormal=subnormal)
