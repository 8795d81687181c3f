"""The verification of every backend on this machine.

:mod:`.cases` says over which inputs, :mod:`.exact` computes exact values, :mod:`.compare` compares
and has the tolerances, :mod:`.backends` checks bitwise equality.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import numpy as np
import torch

from kat.analysis.verify.backends import (
    Backend,
    Check,
    compiled_check,
    consistency_checks,
    interpreted_backend,
    present_backends,
)
from kat.analysis.verify.cases import (
    INTERPRETED,
    Case,
    Grid,
    cases,
    second_order_cases,
    second_order_part,
)
from kat.analysis.verify.compare import Result, first_order_results, second_order_result
from kat.analysis.verify.exact import first_order, second_order
from kat.errors import InputError
from kat.ops.cpu.library import find_library
from kat.version import __version__


@dataclass
class Verification:
    """The outcome of a verification.

    Attributes:
        results: errors by backend, quantity and case.
        checks: determinism, the compiled operator and the like.
        absent: backends that are unavailable on this machine, and why.
        environment: versions and devices.
        inputs: the smallest and the largest input of each rational layer of a model.
        seconds: duration.
    """

    results: list[Result] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures()

    def failures(self) -> list[str]:
        """A line for each failure, the worst first."""
        bad = sorted((r for r in self.results if not r.passed), key=lambda r: -r.worst.ratio)
        checks = [f"{c.name}: {c.detail}" for c in self.checks if c.passed is False]
        return [*checks, *map(str, bad)]


@dataclass(frozen=True)
class Job:
    """A case, and the order of the derivatives to check."""

    case: Case
    order: int = 1


def verify(
    what: Grid | Sequence[Job],
    backends: Sequence[Backend] | None = None,
    *,
    interpreter: bool = False,
    compiled: bool = True,
    track: Callable[[Sequence[Job]], Iterable[Job]] = iter,
) -> Verification:
    """Verifies backends over a grid, or over other cases.

    Args:
        what: a grid, or jobs.
        backends: which; None: all that are available.
        interpreter: also runs the Triton kernels in Triton's interpreter, in another process: over
            the jobs or, since it is slow, over :data:`~kat.analysis.verify.cases.INTERPRETED` with
            the seed of the grid.
        compiled: also compares the compiled operator with the operator, in every form, degree and
            dtype that is checked.
        track: iterates over the jobs, and may show the progress.

    Raises:
        InputError: there is no case, or no backend.
    """
    start = time.monotonic()
    found, absent = present_backends() if backends is None else (list(backends), {})
    result = Verification(absent=absent, environment=environment())
    jobs = grid_jobs(what) if isinstance(what, Grid) else what
    if not jobs or not (found or interpreter):
        raise InputError("nothing would be compared: there is no case, or no backend")
    interpreted = _interpreted_jobs(what) if interpreter else None
    forms, degrees, dtypes = (
        list(dict.fromkeys(getattr(job.case, name) for job in jobs))
        for name in ("form", "degree", "dtype")
    )
    with _interpreter(interpreted) as child:
        for job in track(jobs):
            _run(job, found, result)
        result.checks += consistency_checks(found, dtypes)
        if compiled:
            for device in sorted({backend.device for backend in found}):
                result.checks.append(compiled_check(device, forms, degrees, dtypes))
        if child is not None:
            other = child.result()
            result.results += other.results
            result.checks += other.checks
    result.seconds = time.monotonic() - start
    return result


def environment() -> dict[str, str]:
    """Versions and devices."""
    found = {
        "kat": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "CPU kernel": _cpu_kernel(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_kernel() -> str:
    """The instruction set that runs and those that the library has, or why there is none."""
    found = find_library()
    return found if isinstance(found, str) else f"{found.name}, of {', '.join(found.available)}"


def grid_jobs(grid: Grid) -> list[Job]:
    """The cases of a grid, then those for second derivatives."""
    first = [Job(case) for case in cases(grid)]
    return first + [Job(case, 2) for case in second_order_cases(grid)]


def case_jobs(given: Sequence[Case]) -> list[Job]:
    """Cases, then their second derivatives where these are checked."""
    twice = (second_order_part(case) for case in given)
    return [Job(case) for case in given] + [Job(case, 2) for case in twice if case is not None]


def _interpreted_jobs(what: Grid | Sequence[Job]) -> list[Job]:
    if isinstance(what, Grid):
        return grid_jobs(replace(INTERPRETED, seed=what.seed))
    return [job for job in what if job.order == 1]


def _run(job: Job, backends: Sequence[Backend], result: Verification) -> None:
    """Adds the results of one job; a backend that raises an error has failed."""
    case = job.case
    function = case.a, case.b, case.form, case.arithmetic
    if job.order == 1:
        exact = first_order(case.all_x(), case.grad, *function)
    else:
        exact = second_order(case.x.ravel(), *function)
    for backend in backends:
        try:
            if job.order == 1:
                result.results += first_order_results(backend, case, exact)
            elif backend.twice:
                result.results.append(second_order_result(backend, case, exact))
        except Exception as error:  # the other backends are still checked
            name = f"{backend.name}: form {case.form}, degree {case.degree}, {case.dtype}"
            result.checks.append(Check(name, False, f"raised {type(error).__name__}: {error}"))


@contextmanager
def _interpreter(jobs: Sequence[Job] | None) -> Iterator[Future[Verification] | None]:
    """Runs interpreted Triton kernels in another process: Triton reads the variable on import."""
    if jobs is None:
        yield None
        return
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield pool.submit(_verify_interpreted, jobs)
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


def _verify_interpreted(jobs: Sequence[Job]) -> Verification:
    torch.set_num_threads(1)
    with np.errstate(all="ignore"):  # the interpreter computes with numpy
        return verify(jobs, [interpreted_backend()], compiled=False)
