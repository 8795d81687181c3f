"""The comparison of a backend with exact values: y, gradients, second derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kat.analysis.verify.backends import Backend
from kat.analysis.verify.cases import DTYPES, Case, smallest_subnormal
from kat.analysis.verify.exact import Exact

RULE = (
    "The tolerance is steps (u scale + eta size) + v |exact| + eta_out, with steps = m + n + 4, or"
    " twice that for second derivatives. u and eta are the unit roundoff and the smallest number of"
    " the dtype of the arithmetic (float64 for float64, else float32), v and eta_out those of the"
    " dtype of the result. The scale is that of the terms whose sum the value is; the size is 1, or"
    " for db |y| where that is larger. The gradients of the output are of any size that the dtype"
    " has. Values beyond the maximum of the dtype count as that maximum. A sum over n elements may"
    " have the errors of its terms plus n u sum |terms|, and may be infinite where sum |terms|"
    " exceeds the maximum. An infinite x must give the limit. A NaN must give NaN in y and dx, and"
    " nothing else may give NaN."
)
"""The tolerance; :mod:`kat.analysis.verify.exact` defines the scales."""

QUANTITIES = ("y", "dx", "da", "db", "da (sum)", "db (sum)", "second derivatives")

_ROWS = 8
"""Number of times that each x occurs in the sums over many elements."""


@dataclass(frozen=True)
class Worst:
    """The element with the largest error over tolerance.

    Attributes:
        component: the quantity in full, e.g. ``"da_3"``.
        range: name of its range of |x|.
        x: None for a sum over the range.
        grad: the gradient of the output; None for y, sums and second derivatives.
        got, exact, tolerance: the value of the backend, the exact value, the tolerance.
        ratio: error / tolerance.
    """

    component: str
    range: str
    x: float | None
    grad: float | None
    got: float
    exact: float
    tolerance: float
    ratio: float


@dataclass(frozen=True)
class Result:
    """The errors of one backend in one quantity of one case.

    Attributes:
        ranges: names of the ranges of |x|.
        ratios: the largest error / tolerance of each range; above 1 fails.
        errors: the largest error / scale of each range, over values that are normal numbers of
            their dtype; NaN where there are none.
        worst: the element with the largest ratio.
    """

    backend: str
    quantity: str
    form: str
    degree: tuple[int, int]
    dtype: str
    coefficients: str
    ranges: tuple[str, ...]
    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    worst: Worst

    @property
    def passed(self) -> bool:
        """Whether every error is within its tolerance."""
        return self.worst.ratio <= 1

    def __str__(self) -> str:
        """One line: what was compared, and its worst element."""
        m, n = self.degree
        w = self.worst
        failing = [r for r, ratio in zip(self.ranges, self.ratios, strict=True) if ratio > 1]
        where = (
            f" in {len(failing)} of {len(self.ranges)} ranges from {failing[0]}" if failing else ""
        )
        at = f"x = {w.x:.9g}" if w.x is not None else f"the sum over |x| in {w.range}"
        at += f", output gradient {w.grad:g}" if w.grad is not None else ""
        return (
            f"{self.backend}: {self.quantity}, form {self.form}, degree {m}/{n}, {self.dtype},"
            f" coefficients {self.coefficients}{where}; worst {w.component} at {at}:"
            f" got {w.got:.9g}, exact {w.exact:.9g}, error {w.ratio:.3g} times the tolerance"
        )


@dataclass(frozen=True)
class _Comparison:
    """Values and exact values, arrays (rows, columns), with a name for each row and column."""

    names: Sequence[str]
    ranges: np.ndarray
    x: np.ndarray
    grad: np.ndarray
    got: np.ndarray
    exact: np.ndarray
    tolerance: np.ndarray
    ratio: np.ndarray
    error: np.ndarray

    def rows(self, prefix: str) -> _Comparison:
        """The rows whose name starts with a prefix."""
        keep = [i for i, name in enumerate(self.names) if name.startswith(prefix)]
        arrays = (self.got, self.exact, self.tolerance, self.ratio, self.error)
        names = [self.names[i] for i in keep]
        return _Comparison(
            names, self.ranges, self.x, self.grad, *(array[keep] for array in arrays)
        )


def first_order_results(backend: Backend, case: Case, exact: Exact) -> list[Result]:
    """Compares y, dx, da and db with one element per group, and sums over many elements.

    Args:
        exact: :func:`kat.analysis.verify.exact.first_order` at ``case.all_x()`` for ``case.grad``.
    """
    alone = _one_element_a_group(backend, case, exact)
    together, sums = _many_elements_a_group(backend, case, exact)
    results = []
    for quantity in ("y", "dx"):
        both = [part.rows(quantity) for part in (alone, together)]
        results.append(_result(backend, case, quantity, both))
    for quantity in ("da", "db") if len(case.b) else ("da",):
        results.append(_result(backend, case, quantity, [alone.rows(quantity)]))
        results.append(_result(backend, case, f"{quantity} (sum)", [sums.rows(quantity)]))
    return results


def second_order_result(backend: Backend, case: Case, exact: Exact) -> Result:
    """Compares the second derivatives with one element per group.

    Mixed derivatives are taken in both orders: the gradient of a backend has a formula for each.

    Args:
        exact: :func:`kat.analysis.verify.exact.second_order` at ``case.x.ravel()``.
    """
    got_both = _second_derivatives(backend, case)
    compared = [
        _compare(
            backend,
            case,
            exact,
            got,
            case.x.ravel(),
            np.ones(case.x.size),
            _ranges(case),
            steps=2 * _steps(case),
        )
        for got in got_both
    ]
    return _result(backend, case, "second derivatives", compared)


def _ranges(case: Case) -> np.ndarray:
    return case.all_ranges()[: case.x.size]


def _steps(case: Case) -> int:
    return sum(case.degree) + 4


def _factors(shape: tuple[int, ...]) -> np.ndarray:
    """+-1 and +-2 for the gradients of the output: products with them are exact."""
    return np.random.default_rng(0).choice([-2.0, -1.0, 1.0, 2.0], shape)


def _times(exact: Exact, weight: np.ndarray) -> Exact:
    with np.errstate(over="ignore"):
        high, low = exact.high * weight, exact.low * weight
        return Exact(exact.names, high, low, exact.spread * abs(weight))


def _one_element_a_group(backend: Backend, case: Case, exact: Exact) -> _Comparison:
    x = case.all_x()
    factor = _factors(x.shape)
    grad = case.grad * factor
    y, dx, da, db = _evaluate(backend, case, x[None], grad[None], groups=len(x))
    got = np.concatenate([y, dx, da.T, db.T])
    weight = np.concatenate([np.ones((1, len(x))), np.tile(factor, (len(got) - 1, 1))])
    return _compare(
        backend, case, _times(exact, weight), got, x, grad, case.all_ranges(), steps=_steps(case)
    )


def _many_elements_a_group(
    backend: Backend, case: Case, exact: Exact
) -> tuple[_Comparison, _Comparison]:
    """y and dx of each element, and sums over each range; one group per range, its x repeated."""
    count = len(case.x)
    x = np.tile(case.x.ravel(), (_ROWS, 1))
    factor = _factors(x.shape)
    grad = factor * case.grad[: case.x.size]
    y, dx, da, db = _evaluate(backend, case, x, grad, groups=count)

    finite = Exact(exact.names, *(part[:, : case.x.size] for part in exact[1:]))
    repeated = Exact(finite.names[:2], *(np.tile(part[:2], _ROWS) for part in finite[1:]))
    values = _times(repeated, np.stack([np.ones(factor.size), factor.ravel()]))
    where = np.tile(_ranges(case), _ROWS)
    got = np.stack([y.ravel(), dx.ravel()])
    steps = _steps(case)
    together = _compare(backend, case, values, got, x.ravel(), grad.ravel(), where, steps=steps)

    got = np.concatenate([da.T, db.T])
    nowhere = np.full(count, np.nan)
    names = np.array(case.ranges, dtype=object)
    sums, total = _sums(case, finite, factor)
    limit = _largest(case.coefficient_dtype)
    overflown = np.isinf(got) & (abs(sums.high) <= limit) & (total > limit)
    got = np.where(overflown, sums.high, got)
    return together, _compare(backend, case, sums, got, nowhere, nowhere, names, steps=steps)


def _sums(case: Case, exact: Exact, factor: np.ndarray) -> tuple[Exact, np.ndarray]:
    """da and db summed over each range of x and all factors, and sum |terms|."""
    count, points = case.x.shape
    weight, size = (f.sum(0).reshape(count, points) for f in (factor, abs(factor)))
    high, _, spread = (part[2:].reshape(-1, count, points) for part in exact[1:])
    limit = _largest(torch.float64)
    with np.errstate(over="ignore"):
        total = (abs(high) * size).sum(-1)
        accumulated = _ROWS * points * case.arithmetic.roundoff * total
        rounding = (spread * size).sum(-1) + accumulated / _steps(case)
        room = np.where(total <= limit, 1.0, 2.0**-10)  # partial sums may exceed float64's maximum
        terms = np.clip(high, -limit, limit) * room[..., None] * weight
        sums = np.array([[math.fsum(group) for group in row] for row in terms]) / room
    return Exact(exact.names[2:], sums, np.zeros_like(sums), rounding), total


def _inputs(backend: Backend, case: Case, x: np.ndarray, groups: int) -> list[Tensor]:
    """x (rows, channels), and the same coefficients for each group of channels.

    Memory is channels first, so that the elements of a group are adjacent.
    """
    a, b = (
        torch.tensor(c, dtype=case.coefficient_dtype).repeat(groups, 1).to(backend.device)
        for c in (case.a, case.b)
    )
    values = torch.tensor(x, dtype=DTYPES[case.dtype]).to(backend.device)
    return [values.t().contiguous().t(), a, b]


def _evaluate(
    backend: Backend, case: Case, x: np.ndarray, grad: np.ndarray, groups: int
) -> list[np.ndarray]:
    values, a, b = _inputs(backend, case, x, groups)
    out = torch.tensor(grad, dtype=values.dtype).to(backend.device)
    return [_numpy(t) for t in backend.evaluate(out, values, a, b, case.form)]


def _second_derivatives(backend: Backend, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Rows as in :func:`.exact.second_order`, with mixed ones from either first gradient."""
    points = case.x.size
    inputs = _inputs(backend, case, case.x.reshape(1, -1), groups=points)
    x, a, b = leaves = [t.requires_grad_() for t in inputs]
    y = backend.function(x, a, b, case.form)
    dx, da, db = torch.autograd.grad(y.sum(), leaves, create_graph=True)

    def again(total: Tensor) -> list[np.ndarray]:
        parts = torch.autograd.grad(total, leaves, retain_graph=True, materialize_grads=True)
        return [_numpy(part) for part in parts]

    xx, x_a, x_b = again(dx.sum())
    of_a = [again(column.sum()) for column in da.unbind(1)]
    of_b = [again(column.sum()) for column in db.unbind(1)]
    upper = [b_b[:, j:].T for j, (_, _, b_b) in enumerate(of_b)]
    lower = [np.stack([of_b[k][2][:, j] for k in range(j, len(of_b))]) for j in range(len(of_b))]
    one = [xx, x_a.T, x_b.T, *(a_b.T for _, _, a_b in of_a), *upper]
    mixed = [row[0] for rows in (of_a, of_b) for row in rows]
    b_a = np.reshape([row[1][:, i] for i in range(len(of_a)) for row in of_b], (-1, points))
    other = [xx, *mixed, b_a, *lower]
    return np.concatenate(one), np.concatenate(other)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _compare(
    backend: Backend,
    case: Case,
    exact: Exact,
    got: np.ndarray,
    x: np.ndarray,
    grad: np.ndarray,
    where: np.ndarray,
    steps: int,
) -> _Comparison:
    """The error / tolerance of each element, by :data:`RULE`."""
    of_x = np.array([name in ("y", "dx", "dxx") for name in exact.names])[:, None]
    own, of_coefficients = DTYPES[case.dtype], case.coefficient_dtype
    limit, tiny, unit, smallest = (
        np.where(of_x, function(own), function(of_coefficients))
        for function in (_largest, _smallest_normal, _unit, smallest_subnormal)
    )
    if backend.truncates and case.dtype == "bfloat16":
        unit, smallest = np.where(of_x, (2 * unit, tiny), (unit, smallest))
    low = np.where(abs(exact.high) <= limit, exact.low, 0)
    with np.errstate(all="ignore"):
        value = np.clip(exact.high, -limit, limit)
        difference = abs(np.clip(got, -limit, limit) - value - low)
        tolerance = steps * exact.spread + unit * abs(value) + smallest
        ratio = np.where(np.isinf(tolerance), 0, difference / tolerance)
        error = np.where(
            abs(value) >= tiny, difference * case.arithmetic.roundoff / exact.spread, np.nan
        )
    ratio, error = (np.where(np.isnan(got), np.inf, part) for part in (ratio, error))
    undefined = np.isnan(exact.high)
    must_be_nan = undefined & np.isnan(x) & of_x
    ratio = np.where(undefined, np.where(must_be_nan & ~np.isnan(got), np.inf, 0), ratio)
    error = np.where(undefined, np.nan, error)
    return _Comparison(exact.names, where, x, grad, got, exact.high, tolerance, ratio, error)


def _largest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max


def _smallest_normal(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny


def _unit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _result(backend: Backend, case: Case, quantity: str, compared: Sequence[_Comparison]) -> Result:
    """The largest error of each range, and the worst element."""
    names = list(dict.fromkeys(name for part in compared for name in part.ranges))
    ratios, errors = [], []
    for name in names:
        columns = [(part, part.ranges == name) for part in compared]
        ratios.append(max(float(part.ratio[:, keep].max()) for part, keep in columns if keep.any()))
        found = np.concatenate([part.error[:, keep].ravel() for part, keep in columns])
        found = found[~np.isnan(found)]
        errors.append(float(found.max()) if len(found) else math.nan)
    part = max(compared, key=lambda part: part.ratio.max())
    row, column = (int(i) for i in np.unravel_index(part.ratio.argmax(), part.ratio.shape))
    worst = Worst(
        part.names[row],
        str(part.ranges[column]),
        None if quantity.endswith("(sum)") else float(part.x[column]),
        float(part.grad[column]) if quantity in ("dx", "da", "db") else None,
        float(part.got[row, column]),
        float(part.exact[row, column]),
        float(part.tolerance[row, column]),
        float(part.ratio[row, column]),
    )
    return Result(
        backend.name,
        quantity,
        case.form,
        case.degree,
        case.dtype,
        case.coefficients,
        tuple(names),
        tuple(ratios),
        tuple(errors),
        worst,
    )
