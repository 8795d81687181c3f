"""Fit the coefficients of a safe Padé rational to a target function.

F(x) = P(x) / Q(x) with P(x) = a_0 + a_1 x + ... + a_m x^m and

    form A: Q(x) = 1 + |b_1| |x| + ... + |b_n| |x|^n
    form B: Q(x) = 1 + |b_1 x + ... + b_n x^n|

Within form A, taking b_j >= 0, and within form B once the sign of the inner sum is prescribed,
"the error is at most E" reads |f Q - P| <= E Q, which is linear in (a, b).  The smallest E is then
the minimum of a quasi-convex function.  The differential correction algorithm reaches it from the
least-squares polynomial by a short sequence of linear programs, so there is no random start and
no local minimum to escape from.

Running the module refits the presets and writes them as JSON.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import erfc, expit

__all__ = ["FUNCTIONS", "NARROW", "Fit", "evaluate", "fit", "fit_preset", "main"]

Array = NDArray[np.float64]
Target = Callable[[Array], Array]

PRESET_DEGREE = (5, 4)
PRESET_INTERVAL = (-3.0, 3.0)
PRESET_PATH = Path(__file__).with_name("presets.json")

_FORMS = ("A", "B")
_FIT_POINTS = 401
_EXCHANGE_POINTS = 8001
_CHECK_POINTS = 50001
_EXCHANGES = 3
_MAX_STEPS = 80
# Bounds on |b_j|, in the scaled variable and tried in turn, before the last one in x itself.
# Started with a loose bound, the iteration wanders to denominators so large that the constant 1 in
# Q is lost to rounding.
_SCALED_BOUNDS = (1.0, 10.0, 100.0)
_LAST_BOUND = 1e3
# A sign change of form B's inner sum puts a kink in F; it must earn its place.
_KINK_GAIN = 0.9


def _identity(x: Array) -> Array:
    """f(x) = x."""
    return x


def _relu(x: Array) -> Array:
    """f(x) = max(x, 0)."""
    return np.maximum(x, 0.0)


def _leaky_relu(x: Array) -> Array:
    """f(x) = max(x, 0.01 x)."""
    return np.maximum(x, 0.01 * x)


def _tanh(x: Array) -> Array:
    """f(x) = tanh(x)."""
    return np.asarray(np.tanh(x))


def _sigmoid(x: Array) -> Array:
    """f(x) = 1 / (1 + exp(-x))."""
    return np.asarray(expit(x))


def _silu(x: Array) -> Array:
    """f(x) = x / (1 + exp(-x))."""
    return np.asarray(x * expit(x))


def _gelu(x: Array) -> Array:
    """f(x) = x (1 + erf(x / sqrt(2))) / 2, written with erfc to keep the negative tail exact."""
    return np.asarray(0.5 * x * erfc(-x / math.sqrt(2.0)))


def _softplus(x: Array) -> Array:
    """f(x) = log(1 + exp(x))."""
    return np.asarray(np.logaddexp(0.0, x))


def _mish(x: Array) -> Array:
    """f(x) = x tanh(log(1 + exp(x)))."""
    return np.asarray(x * np.tanh(np.logaddexp(0.0, x)))


FUNCTIONS: dict[str, Target] = {
    "identity": _identity,
    "silu": _silu,
    "gelu": _gelu,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "mish": _mish,
    "softplus": _softplus,
}


@dataclass(frozen=True)
class Fit:
    """F(x) = (sum_i numerator[i] x^i) / Q(x), with denominator[j - 1] the coefficient b_j of Q.

    function: name of the target.
    form: "A" or "B", the shape of Q.
    degree: (m, n), the degrees of numerator and denominator.
    interval: where F was fitted.
    numerator, denominator: the m + 1 and n coefficients.
    max_error, rms_error: of F - f on a dense even grid over the interval.
    """

    function: str
    form: str
    degree: tuple[int, int]
    interval: tuple[float, float]
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    max_error: float
    rms_error: float


NARROW = {"gelu_narrow": "gelu"}
"""Presets of a function that are closer on the interval in form B, and useless beyond it."""


def evaluate(
    x: NDArray[Any] | float,
    numerator: NDArray[Any] | tuple[float, ...] | list[float],
    denominator: NDArray[Any] | tuple[float, ...] | list[float],
    form: str,
) -> Array:
    """F(x) = P(x) / Q(x) in float64, with P and Q as in the module's equation.

    x: points of any shape.
    numerator: a_0, ..., a_m.
    denominator: b_1, ..., b_n; may be empty, which makes Q = 1.
    form: "A" or "B".
    """
    _check_form(form)
    points = np.asarray(x, dtype=np.float64)
    a = np.asarray(numerator, dtype=np.float64)
    b = np.concatenate([[0.0], np.asarray(denominator, dtype=np.float64)])
    polyval = np.polynomial.polynomial.polyval
    inner = polyval(np.abs(points), np.abs(b)) if form == "A" else np.abs(polyval(points, b))
    return np.asarray(polyval(points, a) / (1.0 + inner), dtype=np.float64)


def fit(
    function: str | Target,
    degree: tuple[int, int] = PRESET_DEGREE,
    form: str = "A",
    interval: tuple[float, float] = PRESET_INTERVAL,
    *,
    whole_line: bool = True,
) -> Fit:
    """Minimise max |P(x) / Q(x) - f(x)| over the interval.

    function: a name in FUNCTIONS, or a callable on float64 arrays.
    degree: (m, n) with m >= 1 and n >= 0.
    form: "A" or "B".
    interval: (low, high), finite and increasing.
    whole_line: form B only.  True keeps b_1 x + ... + b_n x^n from vanishing anywhere but at 0, so
        Q does not fall back to 1 beyond the interval.  False asks that on the interval alone: the
        error there can be smaller, but F may spike outside.

    The inner sum of form B may change sign at 0 if that lowers the error clearly, never elsewhere.
    """
    name, target = _resolve(function)
    m, n = _check_degree(degree)
    _check_form(form)
    low, high = _check_interval(interval)
    if function == "identity":
        return _measured(name, target, form, (low, high), np.eye(m + 1)[1], np.zeros(n))
    best: Fit | None = None
    for family in _families(m, n, form, (low, high), whole_line):
        a, b = _minimax(family, target, (low, high))
        candidate = _measured(name, target, form, (low, high), a, b)
        if best is None or candidate.max_error < _KINK_GAIN * best.max_error:
            best = candidate
    assert best is not None
    return best


def _resolve(function: str | Target) -> tuple[str, Target]:
    if callable(function):
        return str(getattr(function, "__name__", "callable")), function
    if function in FUNCTIONS:
        return function, FUNCTIONS[function]
    near = difflib.get_close_matches(str(function), FUNCTIONS, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown function {function!r}; did you mean {near!r}?")


def _check_degree(degree: tuple[int, int]) -> tuple[int, int]:
    if len(degree) != 2 or not all(isinstance(d, (int, np.integer)) for d in degree):
        raise ValueError(f"degree must be two integers (m, n), got {degree!r}")
    m, n = int(degree[0]), int(degree[1])
    if m < 1 or n < 0:
        raise ValueError(f"degree (m, n) needs m >= 1 and n >= 0, got {degree!r}")
    return m, n


def _check_form(form: str) -> None:
    if form not in _FORMS:
        raise ValueError(f"form must be 'A' or 'B', got {form!r}")


def _check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    if len(interval) != 2:
        raise ValueError(f"interval must be (low, high), got {interval!r}")
    low, high = float(interval[0]), float(interval[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"interval must be finite and increasing, got {interval!r}")
    return low, high


def _values(target: Target, x: Array) -> Array:
    y = np.asarray(target(x), dtype=np.float64)
    if y.shape != x.shape or not np.all(np.isfinite(y)):
        raise ValueError("the function must return one finite value per point of the interval")
    return y


def _measured(
    name: str, target: Target, form: str, interval: tuple[float, float], a: Array, b: Array
) -> Fit:
    """Package coefficients with the errors they have on a grid not used for fitting."""
    x = np.linspace(*interval, _CHECK_POINTS)
    error = evaluate(x, a, b, form) - _values(target, x)
    return Fit(
        function=name,
        form=form,
        degree=(len(a) - 1, len(b)),
        interval=interval,
        # Adding 0.0 turns -0.0 into 0.0.
        numerator=tuple(float(c) + 0.0 for c in a),
        denominator=tuple(float(c) + 0.0 for c in b),
        max_error=float(np.max(np.abs(error))),
        rms_error=float(np.sqrt(np.mean(error**2))),
    )


@dataclass(frozen=True)
class _Family:
    """Q(t) = 1 + sum_j b_j phi_j(t) with C b >= 0, in the scaled variable t = x / scale.

    form A: phi_j(t) = |t|^j and C = identity.
    form B: phi_j(t) = sign(t)^first t^j for j = first..n, where the sum is t^first g(t) and the
    rows of C sample g >= 0.  first = 2 keeps the sign of the sum on both sides of 0, first = 1
    changes it at 0.
    """

    m: int
    n: int
    form: str
    first: int
    scale: float
    constraint: Array

    def numerator_basis(self, x: Array) -> Array:
        return np.asarray((x / self.scale)[:, None] ** np.arange(self.m + 1))

    def denominator_basis(self, x: Array) -> Array:
        t = x / self.scale
        powers = np.arange(self.first, self.n + 1)
        if self.form == "A":
            return np.asarray(np.abs(t)[:, None] ** powers)
        sign = np.where(t < 0, -1.0, 1.0) ** self.first
        return np.asarray(sign[:, None] * t[:, None] ** powers)

    def unscaled(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Coefficients of x from those of t, with the absent low denominator powers as zeros."""
        full = np.concatenate([np.zeros(self.first - 1), b])[: self.n]
        return (
            a / self.scale ** np.arange(self.m + 1),
            full / self.scale ** np.arange(1, self.n + 1),
        )

    def last_bound(self) -> Array:
        """The loosest bound on |b_j|, no tighter than the scaled ones tried before it."""
        bound = _LAST_BOUND * self.scale ** np.arange(self.first, self.n + 1)
        return np.asarray(np.maximum(bound, max(_SCALED_BOUNDS)))


def _families(
    m: int, n: int, form: str, interval: tuple[float, float], whole_line: bool
) -> list[_Family]:
    """The convex families to search, the preferred one first."""
    scale = max(abs(interval[0]), abs(interval[1]))
    if form == "A" or n == 0:
        return [_Family(m, n, form, 1, scale, np.eye(n))]
    firsts = (2, 1) if n >= 2 else (1,)
    return [
        _Family(m, n, form, first, scale, _positivity(n - first, interval, scale, whole_line))
        for first in firsts
    ]


def _positivity(degree: int, interval: tuple[float, float], scale: float, whole: bool) -> Array:
    """Rows sampling g >= 0 for a polynomial g of the given degree in t.

    With t = tan(theta) the row is cos(theta)^(degree - j) sin(theta)^j, which stays bounded up to
    t = +-infinity, so one grid covers the line and its two ends.
    """
    inside = np.arctan(_chebyshev(interval, 201) / scale)
    outside = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 201)
    theta = np.concatenate([inside, outside]) if whole else inside
    j = np.arange(degree + 1)
    cosine = np.where(np.abs(theta) == 0.5 * np.pi, 0.0, np.cos(theta))
    return np.asarray(cosine[:, None] ** (degree - j) * np.sin(theta)[:, None] ** j)


def _chebyshev(interval: tuple[float, float], count: int) -> Array:
    """Extrema of the Chebyshev polynomial on the interval, with 0 added where it lies inside."""
    low, high = interval
    nodes = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.linspace(0.0, np.pi, count))
    return np.unique(np.append(nodes, 0.0)) if low < 0.0 < high else np.asarray(nodes)


def _minimax(family: _Family, target: Target, interval: tuple[float, float]) -> tuple[Array, Array]:
    """Minimise the largest error on a grid, adding the missed error peaks to it a few times."""
    x = _chebyshev(interval, _FIT_POINTS)
    fine = _chebyshev(interval, _EXCHANGE_POINTS)
    fine_y = _values(target, fine)
    start = np.linalg.lstsq(family.numerator_basis(x), _values(target, x), rcond=None)[0]
    a = np.asarray(start, dtype=np.float64)
    b = np.zeros(family.constraint.shape[1])
    for bound in _SCALED_BOUNDS:
        limit = np.full(len(b), bound)
        a, b = _differential_correction(family, x, _values(target, x), a, b, limit)
    limit = family.last_bound()
    for _ in range(_EXCHANGES):
        a, b = _differential_correction(family, x, _values(target, x), a, b, limit)
        error = np.abs(_residual(family, fine, fine_y, a, b))
        x = np.union1d(x, fine[_peaks(error)])
    return _trimmed(family, fine, fine_y, a, b)


def _peaks(error: Array) -> NDArray[np.bool_]:
    padded = np.concatenate([[-np.inf], error, [-np.inf]])
    local = (error >= padded[:-2]) & (error >= padded[2:])
    return np.asarray(local & (error > 0.5 * error.max()))


def _residual(family: _Family, x: Array, y: Array, a: Array, b: Array) -> Array:
    """f - P / Q at the points."""
    quotient = family.numerator_basis(x) @ a / (1.0 + family.denominator_basis(x) @ b)
    return np.asarray(y - quotient)


def _rounding(y: Array) -> float:
    """An error not worth lowering: a few units in the last place of the largest value."""
    return 4.0 * float(np.finfo(np.float64).eps) * max(1.0, float(np.max(np.abs(y))))


def _differential_correction(
    family: _Family, x: Array, y: Array, a: Array, b: Array, limit: Array
) -> tuple[Array, Array]:
    """Repeat: minimise u with |f Q - P| <= E Q + u E Q_k over (P, Q), E the error of (P_k, Q_k)."""
    error = float(np.max(np.abs(_residual(family, x, y, a, b))))
    floor = _rounding(y)
    for count in range(_MAX_STEPS):
        if error <= floor:
            break
        linearised = count == 0
        step = _correction(family, x, y, a, b, error, limit, linearised)
        new_a, new_b, new_error = _advance(family, x, y, a, b, step, error)
        converged = new_error > (1.0 - 1e-9) * error
        a, b, error = new_a, new_b, new_error
        if converged and not linearised:
            break
    return a, b


def _advance(
    family: _Family, x: Array, y: Array, a: Array, b: Array, step: Array, error: float
) -> tuple[Array, Array, float]:
    """The first of the step, its fourth, sixteenth, ... to lower the error, or else no move.

    In exact arithmetic the whole step always does; shorter ones absorb the solver's tolerance.
    """
    for length in 0.25 ** np.arange(6):
        new_a = a + length * step[: len(a)]
        new_b = b + length * step[len(a) :]
        if family.form == "A":
            new_b = np.maximum(new_b, 0.0)
        new_error = float(np.max(np.abs(_residual(family, x, y, new_a, new_b))))
        if new_error < error:
            return new_a, new_b, new_error
    return a, b, error


def _correction(
    family: _Family,
    x: Array,
    y: Array,
    a: Array,
    b: Array,
    error: float,
    limit: Array,
    linearised: bool,
) -> Array:
    """The step of one linear program; zeros when the solver finds none.

    linearised drops E (Q - Q_k) from the right-hand side.  That step alone need not lead to the
    minimum, but from a crude start it goes much farther.

    The unknowns are the step's components along the singular vectors of d(f Q - P) / (E Q_k), which
    keeps the solver's absolute tolerances meaningful however small E is and however close to
    dependent the powers are.
    """
    phi = family.denominator_basis(x)
    q = 1.0 + phi @ b
    r = _residual(family, x, y, a, b) / error
    jacobian = np.hstack([-family.numerator_basis(x), y[:, None] * phi]) / (q[:, None] * error)
    directions = _directions(jacobian, float(np.max(limit, initial=1.0)))
    to_b = directions[len(a) :]
    change = jacobian @ directions
    growth = np.zeros_like(change) if linearised else phi @ to_b / q[:, None]
    sign_rows, sign_rhs = _scaled_rows(-family.constraint @ to_b, family.constraint @ b)
    box = to_b / limit[:, None]
    z = _smallest_u(
        with_u=np.vstack([change - growth, -change - growth]),
        with_u_rhs=np.concatenate([1.0 - r, 1.0 + r]),
        without_u=np.vstack([sign_rows, box, -box]),
        without_u_rhs=np.concatenate([sign_rhs, 1.0 - b / limit, 1.0 + b / limit]),
    )
    return np.asarray(directions @ z)


def _directions(jacobian: Array, largest: float) -> Array:
    """Singular directions scaled to change the relative error by O(1), one per column.

    Left out are those lost in rounding, and those that a coefficient of the largest allowed size
    could not make visible at the present error: they would only amplify the solver's tolerance.
    """
    points = math.sqrt(len(jacobian))
    _, singular, vt = np.linalg.svd(jacobian, full_matrices=False)
    keep = singular > max(1e-15 * singular[0], 1e-7 * points / largest)
    return np.asarray(vt[keep].T / singular[keep] * points)


def _smallest_u(with_u: Array, with_u_rhs: Array, without_u: Array, without_u_rhs: Array) -> Array:
    """Minimise u <= 0 over (z, u) with G z - u <= g and H z <= h; z = 0 when the solver fails."""
    count = with_u.shape[1]
    matrix = np.vstack([with_u, without_u])
    u_column = np.concatenate([-np.ones(len(with_u)), np.zeros(len(without_u))])
    result = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.column_stack([matrix, u_column]),
        b_ub=np.concatenate([with_u_rhs, without_u_rhs]),
        bounds=[(-1e3, 1e3)] * count + [(None, 0.0)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9},
    )
    return np.asarray(result.x[:-1]) if result.status == 0 else np.zeros(count)


def _scaled_rows(rows: Array, rhs: Array) -> tuple[Array, Array]:
    """Divide each inequality by its largest coefficient; a row of zeros is left alone."""
    size = np.max(np.abs(rows), axis=1, initial=0.0)
    size = np.where(size > 0.0, size, 1.0)
    return rows / size[:, None], np.maximum(rhs, 0.0) / size


def _trimmed(family: _Family, x: Array, y: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Coefficients of x, with those zeroed that are only the solver's rounding noise.

    A leftover 1e-17 x^m in the numerator would take over far enough from the interval.
    """
    error = float(np.max(np.abs(_residual(family, x, y, a, b))))
    allowed = max(error * (1.0 + 1e-4), _rounding(y))
    kept = np.concatenate([a, b])
    for i in np.flatnonzero(np.abs(kept) < 1e-2 * allowed):
        trial = kept.copy()
        trial[i] = 0.0
        trial_error = np.max(np.abs(_residual(family, x, y, trial[: len(a)], trial[len(a) :])))
        if trial_error <= allowed:
            kept = trial
    return family.unscaled(kept[: len(a)], kept[len(a) :])


def fit_preset(name: str, degree: tuple[int, int], form: str) -> Fit:
    """The fit behind a preset: of a function, or of the one that a narrow preset stands for.

    name: a name in FUNCTIONS or NARROW.
    degree, form: as in :func:`fit`.
    """
    function = NARROW.get(name, name)
    return fit(function, degree, form, PRESET_INTERVAL, whole_line=name not in NARROW)


def _entry(result: Fit) -> dict[str, Any]:
    return {
        "numerator": list(result.numerator),
        "denominator": list(result.denominator),
        "degree": list(result.degree),
        "interval": list(result.interval),
        "max_error": result.max_error,
        "rms_error": result.rms_error,
    }


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Refit every preset and write the JSON file.

    argv: command-line arguments; --output names the file.
    """
    parser = argparse.ArgumentParser(description="Refit the rational presets and write them.")
    parser.add_argument("--output", type=Path, default=PRESET_PATH, help="JSON file to write")
    output: Path = parser.parse_args(argv).output
    presets = {
        name: {form: _entry(fit_preset(name, PRESET_DEGREE, form)) for form in _FORMS}
        for name in (*FUNCTIONS, *NARROW)
    }
    content = {"interval": list(PRESET_INTERVAL), "presets": presets}
    _write_atomically(output, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
