"""The backends that ``kat verify`` compares, and checks of bitwise equality."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kat.analysis.verify.cases import DTYPES
from kat.errors import BackendUnavailable, InputError, unknown
from kat.ops import FORMS, Impl, rational

_Arguments = tuple[Tensor, Tensor, Tensor, Tensor, str]


@dataclass(frozen=True)
class Backend:
    """One way to compute the function.

    Args:
        name: in reports.
        function: maps x, numerator, denominator and form to F(x); differentiable.
        device: the device of its tensors.
        twice: whether its gradients are differentiable.
        truncates: whether it truncates to bfloat16 instead of rounding.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor, str], Tensor]
    device: str = "cpu"
    twice: bool = True
    truncates: bool = False

    def evaluate(
        self, grad: Tensor, x: Tensor, a: Tensor, b: Tensor, form: str
    ) -> tuple[Tensor, ...]:
        """F(x), and the gradients of ``sum(grad * F(x))`` with respect to x, a and b."""
        x, a, b = (t.detach().requires_grad_() for t in (x, a, b))
        y = self.function(x, a, b, form)
        return y.detach(), *torch.autograd.grad(y, (x, a, b), grad)


@dataclass(frozen=True)
class FusedPass(Backend):
    """The backward pass of the fused GR-KAN layer: F(x) and the gradients together."""

    def evaluate(
        self, grad: Tensor, x: Tensor, a: Tensor, b: Tensor, form: str
    ) -> tuple[Tensor, ...]:
        """F(x) and the gradients, which are not differentiable."""
        *gradients, y = torch.ops.kat.rational_backward_recompute(grad, x, a, b, form)
        return y, *gradients


@dataclass(frozen=True)
class Check:
    """The outcome of a check; ``passed`` None: it could not be made, for the reason given."""

    name: str
    passed: bool | None
    detail: str = ""


def present_backends() -> tuple[list[Backend], dict[str, str]]:
    """The backends available here, and why the others are not."""
    found, absent = [Backend("reference", call("reference"))], {}
    kernels: dict[Impl, str] = {"cpu": "cpu"}
    if torch.cuda.is_available():
        found.append(Backend("reference on cuda", call("reference"), "cuda"))
        kernels["triton"] = "cuda"
    else:
        absent["triton"] = "there is no CUDA device; --interpreter runs the kernels in Python"
    for name, device in kernels.items():
        candidate = Backend(name, call(name), device)
        problem = _problem(candidate)
        if problem:
            absent[name] = problem
        else:
            found += [candidate, FusedPass(f"{name} fused", call(None), device, twice=False)]
    return found, absent


def choose_backends(
    names: Sequence[str] | None, backends: Sequence[Backend], absent: Mapping[str, str]
) -> list[Backend]:
    """The backends of these names; all for None.

    Args:
        names: the names of backends.
        backends, absent: as :func:`present_backends` returns them.

    Raises:
        InputError: a name is unknown, or its backend is unavailable.
    """
    by_name = {backend.name: backend for backend in backends}
    if names is not None and not names:
        raise InputError("backends are empty: nothing would be compared")
    for name in names or ():
        if name in absent:
            raise InputError(f"the backend {name} is unavailable: {absent[name]}")
        if name not in by_name:
            raise unknown("backend", name, by_name)
    return list(backends) if names is None else [by_name[name] for name in names]


def interpreted_backend() -> Backend:
    """The Triton kernels on the CPU; TRITON_INTERPRET=1 must be set before Triton is imported."""
    return Backend("interpreted triton", call("triton"), twice=False, truncates=True)


def call(impl: Impl | None) -> Callable[[Tensor, Tensor, Tensor, str], Tensor]:
    """kat.rational with one of its implementations."""

    def function(x: Tensor, a: Tensor, b: Tensor, form: Any) -> Tensor:
        return rational(x, a, b, form=form, impl=impl)

    return function


def _problem(backend: Backend) -> str:
    x, a, b = (torch.ones(1, 2, device=backend.device) for _ in range(3))
    try:
        backend.function(x, a, b, "A")
    except BackendUnavailable as error:
        return str(error)
    except Exception:  # it is present but broken, and its checks will fail
        return ""
    return ""


def consistency_checks(backends: Sequence[Backend], dtypes: Sequence[str]) -> list[Check]:
    """Checks that each backend repeats its bits, and that the default has the same ones."""
    checks = [_repeats(backend, dtypes) for backend in backends]
    default = {"cpu": "cpu", "triton": "cuda"}
    for backend in backends:
        if default.get(backend.name) == backend.device:
            other = Backend("default", call(None), backend.device)
            name = f"{backend.name}: is the default of kat.rational, same bits"
            checks.append(_same_bits(name, backend, other, _examples(dtypes, backend.device)))
    return checks


def compiled_check(
    device: str, forms: Sequence[str], degrees: Sequence[tuple[int, int]], dtypes: Sequence[str]
) -> Check:
    """Checks that torch.compile does not change the bits of kat.rational, forward and backward."""
    name = f"operator compiled by torch.compile on {device}, same bits"
    problem = _compiler_problem(device)
    if problem:
        return Check(name, None, f"torch.compile does not work here: {problem}")
    eager = Backend("eager", call(None), device)
    compiled = Backend("compiled", _compiled_anew, device)
    examples = (e for degree in degrees for e in _examples(dtypes, device, forms, degree))
    return _same_bits(name, eager, compiled, examples)


def _compiled_anew(x: Tensor, a: Tensor, b: Tensor, form: str) -> Tensor:
    """Compiles anew for each shape and dtype: torch recompiles a function only a few times."""
    torch.compiler.reset()
    compiled: Callable[..., Tensor] = torch.compile(call(None), fullgraph=True)
    return compiled(x, a, b, form)


def _compiler_problem(device: str) -> str:
    """Why torch.compile does not work here; empty if it does."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(64, device=device))
    except Exception as error:  # compilers raise errors of their own types
        return str(error).strip().splitlines()[0]
    return ""


def _repeats(backend: Backend, dtypes: Sequence[str]) -> Check:
    name = f"{backend.name}: from run to run, same bits"
    small = backend.truncates  # the interpreter is slow
    return _same_bits(
        name, backend, backend, _examples(dtypes, backend.device, small=small), times=4
    )


def _same_bits(
    name: str,
    one: Backend,
    other: Backend,
    examples: Iterable[tuple[str, _Arguments]],
    times: int = 1,
) -> Check:
    differing = []
    for label, arguments in examples:
        try:
            expected = one.evaluate(*arguments)
            runs = [other.evaluate(*arguments) for _ in range(times)]
        except Exception as error:  # any error is a failure
            return Check(name, False, f"{label} raised {type(error).__name__}: {error}")
        if not all(map(torch.equal, [*expected] * times, itertools.chain.from_iterable(runs))):
            differing.append(label)
    return Check(name, not differing, "; ".join(f"different bits for {d}" for d in differing))


def _examples(
    dtypes: Sequence[str],
    device: str,
    forms: Sequence[str] = FORMS,
    degree: tuple[int, int] = (5, 4),
    small: bool = False,
) -> Iterator[tuple[str, _Arguments]]:
    """Gradient of the output, x, numerator, denominator, form: two images in a KAT-T layer."""
    m, n = degree
    shape = (2, 8, 48) if small else (2, 197, 192)
    for dtype, form in itertools.product(dtypes, forms):
        generator = torch.Generator().manual_seed(0)
        grad, x, a, b = (
            torch.randn(size, generator=generator).to(device)
            for size in (shape, shape, (1, m + 1), (8, n))
        )
        name = f"form {form}, degree {m}/{n}, {dtype}"
        yield name, (grad.to(DTYPES[dtype]), x.to(DTYPES[dtype]), a, b, form)
