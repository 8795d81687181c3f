"""The cases of ``kat verify``: functions, dtypes, x and gradients of all sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kat.analysis.verify.exact import Arithmetic
from kat.errors import InputError, unknown
from kat.nn import preset, preset_names
from kat.nn.coefficients import ALIASES
from kat.ops import FORMS
from kat.ops.arguments import compute_dtype

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
TRAINED = (3.5e-2, 1.96, -7.2e-4, 6.9e-2, 1.7e-3, 7.0e-2)
"""The numerator of a trained act1, reported by a user of the published code."""

_SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan)
_SPECIAL_RANGES = ("0", "0", "inf", "inf", "nan")

_SECOND_ORDER = {"float32": (-3, 2), "float64": (-3, 3)}
"""Powers of 10 between which second derivatives are checked. In float32, 1 / Q^2 at degree (9, 8)
underflows soon after."""
_SECOND_ORDER_SETS = ("silu", "random", "trained")


@dataclass(frozen=True)
class Grid:
    """What is checked.

    Args:
        forms: ``"A"``, ``"B"`` or both.
        degrees: pairs (m, n).
        dtypes: names in :data:`DTYPES`.
        sets: names of coefficient sets (:func:`coefficient_sets`); None: all.
        points: number of x in each range of |x|.
        starts: where the ranges of |x| begin that are checked; None: all.
        stride: only every stride-th of these ranges is checked.
        subnormal: whether x and the gradients of the output may be subnormal.
        largest: the largest |x|; None: the maximum of each dtype, and infinity and NaN.
        seed: the seed of x, of random coefficients and of the gradients of the output.
    """

    forms: tuple[str, ...] = ("A", "B")
    degrees: tuple[tuple[int, int], ...] = ((3, 2), (5, 4), (7, 6), (9, 8))
    dtypes: tuple[str, ...] = tuple(DTYPES)
    sets: tuple[str, ...] | None = None
    points: int = 4
    starts: tuple[float, ...] | None = None
    stride: int = 1
    subnormal: bool = True
    largest: float | None = None
    seed: int = 0


def check_grid(grid: Grid) -> None:
    """Checks the values of a grid.

    Raises:
        InputError: names the first that is wrong.
    """
    for what in ("forms", "degrees", "dtypes"):
        if not getattr(grid, what):
            raise InputError(f"{what} are empty: nothing would be compared")
    for kind, names, known in (("form", grid.forms, FORMS), ("dtype", grid.dtypes, DTYPES)):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    for m, n in grid.degrees:
        if min(m, n) < 1:
            raise InputError(f"degrees must be (m, n) with m and n at least 1, got ({m}, {n})")
    if grid.largest is not None and not 1e-3 <= grid.largest < math.inf:
        raise InputError(f"largest must be a finite number from 1e-3 on, got {grid.largest}")
    if grid.seed < 0:
        raise InputError(f"seed must be at least 0, got {grid.seed}")


QUICK = Grid(degrees=((5, 4),), sets=("silu", "random", "trained"), points=2, stride=2)
"""A few seconds long, for continuous integration."""

INTERPRETED = Grid(
    degrees=((3, 2), (5, 4)),
    sets=("random",),
    points=2,
    starts=(1e-6, 1e-3, 1.0, 1e3, 1e6, 1e8, 1e20, 1e38),
    subnormal=False,
)
"""About half a minute long in Triton's interpreter, which is slow.

It reads subnormal numbers of bfloat16 wrongly."""


@dataclass(frozen=True)
class Case:
    """One function in one dtype, and the x to evaluate it at.

    Args:
        form, degree, dtype: of the function and of x.
        coefficients: their name.
        a, b: coefficients, rounded to their dtype.
        x: (ranges, points), rounded to its dtype.
        grad: the size of the gradient of the output for each of :meth:`all_x`, a power of two.
        ranges: a name for each row of x.
        special: whether 0, infinity and NaN are evaluated too.
    """

    form: str
    degree: tuple[int, int]
    dtype: str
    coefficients: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    x: np.ndarray
    grad: np.ndarray
    ranges: tuple[str, ...]
    special: bool = True

    @property
    def coefficient_dtype(self) -> torch.dtype:
        """float64 for float64, else float32; also the dtype of the arithmetic."""
        return compute_dtype(DTYPES[self.dtype])

    @property
    def arithmetic(self) -> Arithmetic:
        """Unit roundoff and smallest number of the arithmetic."""
        dtype = self.coefficient_dtype
        return Arithmetic(torch.finfo(dtype).eps / 2, smallest_subnormal(dtype))

    def all_x(self) -> np.ndarray:
        """Every x, row by row, then the special ones."""
        return np.concatenate([self.x.ravel(), _SPECIAL if self.special else ()])

    def all_ranges(self) -> np.ndarray:
        """The name of the range of every x."""
        names = np.repeat(np.array(self.ranges, dtype=object), self.x.shape[1])
        return np.concatenate([names, _SPECIAL_RANGES if self.special else ()])


def coefficient_sets(
    degree: tuple[int, int], form: str, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Numerators and denominators by name.

    Presets: all for degree (5, 4), else identity and silu, which are fitted quickly. ``random``:
    standard normal. ``large``: magnitudes log-uniform in [1e-6, 1e6], the leading ones 1e6 and
    1e-6. ``zero a_m``, ``zero b_n``: random with a zero leading coefficient. ``trained``: typical
    after training: one b_j is 0 and the others are between 1e-6 and 3e-2.
    """
    m, n = degree
    names = sorted(set(preset_names()) - set(ALIASES)) if degree == (5, 4) else ["identity", "silu"]
    sets = {}
    for name in names:
        known = preset(name, degree, form)
        sets[name] = (np.array(known.numerator), np.array(known.denominator))
    rng = np.random.default_rng([seed, m, n])

    def spread_out(count: int, low: float, high: float) -> np.ndarray:
        return rng.choice([-1, 1], count) * 10 ** rng.uniform(low, high, count)

    sets["random"] = (rng.normal(size=m + 1), rng.normal(size=n))
    a, b = spread_out(m + 1, -6, 6), spread_out(n, -6, 6)
    a[-1:], b[-1:] = 1e6, 1e-6
    sets["large"] = (a, b)
    a, b = rng.normal(size=m + 1), rng.normal(size=n)
    sets["zero a_m"] = (np.where(np.arange(m + 1) < m, a, 0), b)
    sets["zero b_n"] = (a, np.where(np.arange(n) < n - 1, b, 0))
    a = np.concatenate([TRAINED, spread_out(m, -3, -1)])[: m + 1]
    b = spread_out(n, -6, math.log10(3e-2))
    b[n // 2 :][:1] = 0
    sets["trained"] = (a, b)
    return sets


def ranges(dtype: str, largest: float | None = None) -> list[tuple[float, float]]:
    """Intervals of |x|: subnormal numbers, then up to 1e-6, then decades up to the maximum.

    Beyond 1e38, which only float64 has, an interval is ten decades long.
    """
    info = torch.finfo(DTYPES[dtype])
    top = min(info.max, largest or math.inf)
    powers = [*range(-6, 39), *range(48, 309, 10)]
    edges = [e for e in (float(f"1e{k}") for k in powers) if info.tiny < e < top]
    edges = [smallest_subnormal(DTYPES[dtype]), info.tiny, *edges, top]
    return list(itertools.pairwise(edges))


def smallest_subnormal(dtype: torch.dtype) -> float:
    """The smallest positive number of a dtype."""
    info = torch.finfo(dtype)
    return info.tiny * info.eps


def cases(grid: Grid) -> Iterator[Case]:
    """Every combination in a grid, over all ranges of |x|."""
    for number, (form, name, (a, b)) in enumerate(_functions(grid)):
        for dtype in grid.dtypes:
            intervals = _ranges_of(grid, dtype)
            x = _sample(intervals, grid.points, [grid.seed, number])
            names = _names(intervals)
            case = make_case(form, dtype, name, a, b, x, names, special=grid.largest is None)
            yield replace(case, grad=_gradients(case, grid.subnormal, [grid.seed, number]))


def _ranges_of(grid: Grid, dtype: str) -> list[tuple[float, float]]:
    found = ranges(dtype, grid.largest)[not grid.subnormal :]
    if grid.starts is not None:
        found = [interval for interval in found if interval[0] in grid.starts]
    return found[:: grid.stride]


def _gradients(case: Case, subnormal: bool, seed: list[int]) -> np.ndarray:
    """1 in about half of the ranges and where x is not finite, else any power of two of the dtype.

    All gradients of a range are of one size, so that no term vanishes in a sum over it.
    """
    names = case.all_ranges()
    rng = np.random.default_rng(seed)
    info = torch.finfo(DTYPES[case.dtype])
    least = smallest_subnormal(DTYPES[case.dtype]) if subnormal else info.tiny
    low, high = (math.frexp(edge)[1] for edge in (least, info.max / 8))
    sizes = np.exp2(rng.integers(low, high + 1, len(names)).astype(np.float64))
    sizes = np.where(rng.uniform(size=len(names)) < 0.5, 1.0, sizes)
    of_range = dict(zip(names, sizes, strict=True)) | {"inf": 1.0, "nan": 1.0}
    return np.array([of_range[name] for name in names])


def second_order_cases(grid: Grid) -> Iterator[Case]:
    """The cases for second derivatives, over decades of |x| (:data:`_SECOND_ORDER`)."""
    for number, (form, name, (a, b)) in enumerate(_functions(grid)):
        if name not in _SECOND_ORDER_SETS:
            continue
        for dtype in [dtype for dtype in grid.dtypes if dtype in _SECOND_ORDER]:
            low, high = _SECOND_ORDER[dtype]
            decades = [(10.0**k, 10.0 ** (k + 1)) for k in range(low, high)]
            intervals = [pair for pair in decades if pair[1] <= (grid.largest or math.inf)]
            if intervals:
                x = _sample(intervals, grid.points, [grid.seed, number])
                yield make_case(form, dtype, name, a, b, x, _names(intervals), special=False)


def second_order_part(case: Case) -> Case | None:
    """A case with only the x at which second derivatives are checked; None without any."""
    if case.dtype not in _SECOND_ORDER:
        return None
    low, high = (10.0**power for power in _SECOND_ORDER[case.dtype])
    x = case.x.ravel()
    x = x[(low <= abs(x)) & (abs(x) <= high)][None]
    where = ("; ".join(case.ranges),)
    return replace(case, x=x, grad=np.ones(x.size), ranges=where, special=False) if x.size else None


def make_case(
    form: str,
    dtype: str,
    name: str,
    a: np.ndarray,
    b: np.ndarray,
    x: np.ndarray,
    names: Sequence[str],
    *,
    special: bool,
) -> Case:
    """A case with x and coefficients rounded to their dtypes, and output gradients of size 1.

    Args:
        form, dtype, special: of the case.
        name: the name of the coefficients.
        a, b: a_0 .. a_m and b_1 .. b_n.
        x: (ranges, points).
        names: the names of the ranges.
    """
    coefficient_dtype = compute_dtype(DTYPES[dtype])
    count = x.size + special * len(_SPECIAL)
    return Case(
        form,
        (len(a) - 1, len(b)),
        dtype,
        name,
        tuple(_rounded(a, coefficient_dtype).tolist()),
        tuple(_rounded(b, coefficient_dtype).tolist()),
        _rounded(x, DTYPES[dtype]),
        np.ones(count),
        tuple(names),
        special,
    )


def _functions(
    grid: Grid,
) -> Iterator[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    """Form, name and coefficients."""
    for degree, form in itertools.product(grid.degrees, grid.forms):
        for name, coefficients in coefficient_sets(degree, form, grid.seed).items():
            if grid.sets is None or name in grid.sets:
                yield form, name, coefficients


def _sample(intervals: Sequence[tuple[float, float]], points: int, seed: list[int]) -> np.ndarray:
    """x (intervals, points) with alternating signs: log-uniform ones and the lower end of each
    interval, and the upper end of the last."""
    low, high = (np.array(side)[:, None] for side in zip(*intervals, strict=True))
    position = np.random.default_rng(seed).uniform(size=(len(intervals), points))
    position[:, 0] = 0
    position[-1, -1] = 1
    with np.errstate(over="ignore"):
        size = np.exp(np.log(low) + (np.log(high) - np.log(low)) * position)
    sign = np.where(np.add.outer(np.arange(len(intervals)), np.arange(points)) % 2, -1.0, 1.0)
    return np.where(position == 1.0, high, np.clip(size, low, high)) * sign


def _names(intervals: Sequence[tuple[float, float]]) -> list[str]:
    return [f"{low:.2g}..{high:.2g}" for low, high in intervals]


def _rounded(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return torch.tensor(values, dtype=torch.float64).to(dtype).double().numpy()
