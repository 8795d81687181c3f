"""Verification: every backend of this machine against the reference in float64.

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

import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kat.analysis.choices import DTYPES
from kat.errors import BackendUnavailable
from kat.nn import preset
from kat.ops import FORMS, Impl, rational
from kat.ops.arguments import compute_dtype

DEGREES = ((3, 2), (5, 4), (7, 6), (9, 8))
QUANTITIES = ("y", "dx", "da", "db")
INTERPRETED = "interpreted triton"
_NAN = 1e99
_ROWS, _CHANNELS = 2, 8
"""Each x occurs in so many rows, and in so many channels of a group of its own."""
_OUTPUT_GRADIENTS = torch.arange(_ROWS * _CHANNELS, dtype=torch.float64).remainder(2) + 1


class Backend(NamedTuple):
    """One way to compute the function: ``function(x, numerator, denominator, form=form)``."""

    name: str
    function: Callable[..., Tensor]
    device: str = "cpu"


class Case(NamedTuple):
    """One function in one dtype, and the x to evaluate it at: coefficients (1, m + 1), (1, n)."""

    form: str
    dtype: str
    coefficients: str
    a: Tensor
    b: Tensor
    x: Tensor


class Result(NamedTuple):
    """The largest error / tolerance of a backend in one quantity of one case; above 1 it fails.

    1e99 stands for NaN, and for an error that the backend raised.
    """

    backend: str
    dtype: str
    form: str
    degree: tuple[int, int]
    coefficients: str
    quantity: str
    ratio: float
    x: float
    error: str = ""

    def __str__(self) -> str:
        m, n = self.degree
        return (
            f"{self.backend}: {self.quantity}, form {self.form}, degree {m}/{n}, {self.dtype},"
            f" coefficients {self.coefficients}: "
            + (self.error or f"error {self.ratio:.3g} times the tolerance at x = {self.x:.9g}")
        )


def present_backends() -> tuple[list[Backend], dict[str, str]]:
    """The backends available here, and why the others are not."""
    found, absent = [], dict[str, str]()
    devices: dict[Impl, str] = {"reference": "cpu", "cpu": "cpu", "triton": "cuda"}
    for name, device in devices.items():
        if device == "cuda" and not torch.cuda.is_available():
            absent[name] = "there is no CUDA device; --interpreter runs the kernels in Python"
            continue
        backend = Backend(name, partial(rational, impl=name), device)
        try:
            backend.function(*(torch.ones(1, 2, device=device) for _ in range(3)))
        except BackendUnavailable as error:
            absent[name] = str(error)
        else:
            found.append(backend)
    return found, absent


def cases(
    dtypes: Sequence[str] = DTYPES,
    degrees: Sequence[tuple[int, int]] = DEGREES,
    names: Sequence[str] = ("silu", "random", "spread"),
    stride: int = 1,
) -> list[Case]:
    """Every combination, over every stride-th decade of |x| up to the maximum of the dtype.

    Args:
        dtypes: keys of :data:`DTYPES`.
        degrees: pairs (m, n).
        names: coefficients: of silu at degree (5, 4), standard normal ones, and ones from 1e-6 to
            1e6.
        stride: 1 for all decades.
    """
    found = []
    for degree, form, name, dtype in itertools.product(degrees, FORMS, names, DTYPES):
        if dtype not in dtypes or (name == "silu" and degree != (5, 4)):
            continue
        m, n = degree
        rng = np.random.default_rng(m)
        a, b = rng.normal(size=m + 1), rng.normal(size=n)
        if name == "spread":
            a, b = (np.sign(c) * 10 ** rng.uniform(-6, 6, len(c)) for c in (a, b))
        elif name == "silu":
            known = preset(name, degree, form)
            a, b = np.array(known.numerator), np.array(known.denominator)
        own, info = getattr(torch, dtype), torch.finfo(getattr(torch, dtype))
        decades = np.arange(math.ceil(math.log10(info.tiny)), math.log10(info.max) - 1, stride)
        sizes = 10 ** np.add.outer(decades, rng.uniform(size=2)) * [1, -1]
        x = np.concatenate([[0, info.tiny, info.max, -info.max], sizes.ravel()])
        p, q = (torch.tensor(c[None]).to(compute_dtype(own)) for c in (a, b))
        found.append(Case(form, dtype, name, p, q, torch.tensor(x).to(own)))
    return found


def verify(backends: Sequence[Backend], given: Iterable[Case]) -> list[Result]:
    """Compares y, dx, da and db of backends with the reference in float64.

    A backend that raises an error has failed.
    """
    found = []
    for case in given:
        exact = _evaluate(partial(rational, impl="reference"), case, torch.float64)
        scales, size = _scales(case)
        for backend in backends:
            degree = case.a.shape[1] - 1, case.b.shape[1]
            where = backend.name, case.dtype, case.form, degree, case.coefficients
            try:
                got = _evaluate(backend.function, case, case.x.dtype, backend.device)
            except Exception as error:  # the other backends are still compared
                raised = f"raised {type(error).__name__}: {error}"
                found.append(Result(*where, "y", _NAN, 0.0, raised))
                continue
            truncates = backend.name == INTERPRETED and case.dtype == "bfloat16"
            for name, *parts in zip(QUANTITIES, got, exact, scales, strict=True):
                ratio = _ratios(case, name, parts, size, truncates).amax((0, 2))
                worst = int(ratio.argmax())
                found.append(Result(*where, name, float(ratio[worst]), float(case.x[worst])))
    return found


def verify_interpreted() -> list[Result]:
    """Verifies the Triton kernels on the CPU, in Triton's interpreter, over a few cases.

    They run in another process: Triton reads TRITON_INTERPRET when it is imported.
    """
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(_verify_interpreted).result()
    finally:
        del os.environ["TRITON_INTERPRET"]
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


def _verify_interpreted() -> list[Result]:
    with np.errstate(all="ignore"):  # the interpreter computes with numpy
        few = cases(degrees=DEGREES[:2], names=("random",), stride=16)
        return verify([Backend(INTERPRETED, partial(rational, impl="triton"))], few)


def _evaluate(
    function: Callable[..., Tensor], case: Case, dtype: torch.dtype, device: str = "cpu"
) -> list[Tensor]:
    """y, dx, da and db for output gradients of 1: (values, points, 1 or coefficients), in float64.

    Each point is a group of its own. Output gradients are powers of two, so that dx can be divided
    by them; da and db are divided by their sum.
    """
    points, own = len(case.x), compute_dtype(dtype)
    leaves = (
        case.x.to(dtype).repeat_interleave(_CHANNELS).repeat(_ROWS, 1),
        case.a.to(own).repeat(points, 1),
        case.b.to(own).repeat(points, 1),
    )
    x, a, b = (leaf.to(device) for leaf in leaves)
    x.requires_grad = a.requires_grad = b.requires_grad = True
    grad = _OUTPUT_GRADIENTS.to(x).view(_ROWS, _CHANNELS).repeat(1, points)
    y = function(x, a, b, form=case.form)
    dx, da, db = (t.double().cpu() for t in torch.autograd.grad(y, (x, a, b), grad))
    total = _OUTPUT_GRADIENTS.sum()
    each = [
        t.view(_ROWS, points, _CHANNELS).transpose(1, 2).reshape(-1, points, 1)
        for t in (y.detach().double().cpu(), dx / grad.double().cpu())
    ]
    return [*each, da[None] / total, db[None] / total]


def _scales(case: Case) -> tuple[list[Tensor], Tensor]:
    """The scales of y, dx, da and db, (points, 1 or coefficients), and the size for underflow."""
    x, a, b = case.x.double()[:, None], case.a[0].double().abs(), case.b[0].double().abs()
    m, n = len(a) - 1, len(b)

    def over_q(numerator: Tensor, at: Tensor, denominator: Tensor, form: Any = "A") -> Tensor:
        return rational(at, numerator[None], denominator, form=form, impl="reference")

    sums = partial(over_q, at=x.abs(), denominator=b[None])
    one = torch.eye(n + 1, dtype=torch.float64)
    even = one[0] + one[n - n % 2]
    k = (over_q(even, x, case.b.double(), case.form) / sums(even)) ** 2
    y, dp, dq = sums(a), sums(a[1:] * torch.arange(1, m + 1)), sums(b * torch.arange(1, n + 1))
    da = torch.cat([sums(row) for row in torch.eye(m + 1, dtype=torch.float64)], 1)
    powers = torch.cat([sums(row) for row in one[1:]], 1)
    size = torch.cat([y, powers], 1).amax(1, keepdim=True).clamp(min=1)
    return [k * y, k**2 * (dp + y * dq), k * da, k**2 * y * powers], size


def _ratios(
    case: Case, name: str, parts: Sequence[Tensor], size: Tensor, truncates: bool
) -> Tensor:
    """error / tolerance; ``parts`` are the value of the backend, the exact one and the scale."""
    got, exact, scale = parts
    own, arithmetic = case.x.dtype, torch.finfo(compute_dtype(case.x.dtype))
    result = torch.finfo(own) if name in ("y", "dx") else arithmetic
    terms = {"y": 0, "dx": 0}.get(name, len(_OUTPUT_GRADIENTS))
    factor = {"y": 0, "dx": 2}.get(name, int(_OUTPUT_GRADIENTS.sum()))
    steps = case.a.shape[1] + case.b.shape[1] + 3 + terms
    unit = arithmetic.eps / (1 if own == torch.float64 else 2)
    exact, got = (t.clamp(-result.max, result.max) for t in (exact, got))
    computed = steps * (unit * scale + arithmetic.tiny * arithmetic.eps * size)
    rounded = exact.abs() * result.eps * (1 if truncates else 0.5)
    tolerance = computed + rounded + result.tiny * (1 if truncates else result.eps)
    ratio = (got - exact).abs() / tolerance.where(factor * scale <= result.max, math.inf)
    return ratio.masked_fill(got.isnan(), _NAN)
