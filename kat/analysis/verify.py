"""Verification: every backend of this machine against the reference in float64.

The errors are divided by the tolerances of :mod:`kat.ops.tolerance`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kat.analysis.dtypes import DTYPES
from kat.errors import BackendUnavailable
from kat.nn import preset
from kat.ops import FORMS, Impl, rational
from kat.ops.arguments import Rational, compute_dtype
from kat.ops.tolerance import NAN, ratios
from kat.ops.triton.backend import unsupported

DEGREES = ((3, 2), (5, 4), (7, 6), (9, 8))
QUANTITIES = ("y", "dx", "da", "db")
INTERPRETED = "interpreted triton"
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
    """Return the backends available here, and why the others are not."""
    found, absent = [], dict[str, str]()
    devices: dict[Impl, str] = {"reference": "cpu", "cpu": "cpu", "triton": "cuda"}
    for name, device in devices.items():
        if device == "cuda" and not torch.cuda.is_available():
            absent[name] = "there is no CUDA device; --interpreter runs the kernels in Python"
            continue
        backend = Backend(name, partial(rational, impl=name), device)
        try:
            ones = torch.ones(1, 2, device=device)
            backend.function(ones, ones, ones)
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
    """Return every combination, over every stride-th decade of |x| up to the maximum of the dtype.

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
    """Compare y, dx, da and db of backends with the reference in float64.

    A backend that raises an error has failed. The GPU kernels leave out what they do not support.
    """
    found = []
    for case in given:
        for backend in backends:
            degree = case.a.shape[1] - 1, case.b.shape[1]
            if backend.name.endswith("triton") and unsupported(case.x.dtype, degree):
                continue
            result = partial(Result, backend.name, case.dtype, case.form, degree, case.coefficients)
            try:
                errors = _errors(backend, case)
            except Exception as error:  # the other backends are still compared
                raised = f"raised {type(error).__name__}: {error}"
                found.append(result("y", NAN, 0.0, raised))
                continue
            for name, ratio in zip(QUANTITIES, errors, strict=True):
                worst = int(ratio.argmax())
                found.append(result(name, float(ratio[worst]), float(case.x[worst])))
    return found


def _errors(backend: Backend, case: Case) -> list[Tensor]:
    """Return the largest error / tolerance of y, dx, da and db at each x, a group of its own."""
    points = len(case.x)
    x = case.x.repeat_interleave(_CHANNELS).repeat(_ROWS, 1)
    a, b = case.a.repeat(points, 1), case.b.repeat(points, 1)
    grad = _OUTPUT_GRADIENTS.to(x).view(_ROWS, _CHANNELS).repeat(1, points)
    leaves = [t.detach().to(backend.device).requires_grad_() for t in (x, a, b)]
    y = backend.function(*leaves, form=case.form)
    got = (y.detach(), *torch.autograd.grad(y, leaves, grad.to(backend.device)))
    f = Rational(a, b, case.form)
    truncates = backend.name == INTERPRETED and case.dtype == "bfloat16"
    y_error, dx_error, *others = ratios(got, f, grad, x, truncates=truncates)
    each = [t.view(_ROWS, points, _CHANNELS).amax((0, 2)) for t in (y_error, dx_error)]
    return [*each, *(t.amax(1) for t in others)]


def verify_interpreted() -> list[Result]:
    """Verify the Triton kernels on the CPU, in Triton's interpreter, over a few cases.

    They run in another process: Triton reads TRITON_INTERPRET when it is imported.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_verify_interpreted).result()


def _verify_interpreted() -> list[Result]:
    os.environ |= {"TRITON_INTERPRET": "1", "KAT_GPU_CHECK": "off"}
    with np.errstate(all="ignore"):  # the interpreter computes with numpy
        few = cases(degrees=DEGREES[:2], names=("random",), stride=16)
        return verify([Backend(INTERPRETED, partial(rational, impl="triton"))], few)
