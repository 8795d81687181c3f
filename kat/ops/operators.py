"""The operator ``kat::rational``, F(x) or F(x) v, and its gradients.

Both are registered with ``torch.library``. Each runs the kernel of x's device, or plain PyTorch
where there is none or it does not support the arguments. Only the inputs are kept for the backward
pass.

An operator registered from Python costs tens of microseconds a training step in dispatch alone, as
much as the kernel itself takes on a small layer. So ordinary tensors, where nothing observes or
rewrites operators, go to the kernel directly (:class:`Value`). The arithmetic is the same.

F is one value, :class:`Rational`; functions that torch calls take and return its tensors one by
one, in the order x, numerator, denominator, v. v is None unless F is a gate. Gradients come in this
order too, None where there is none.
"""

from __future__ import annotations

from itertools import compress
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from kat.errors import check_choice
from kat.ops import plain, reference
from kat.ops.arguments import IMPLS, Rational
from kat.ops.cpu import backend as cpu
from kat.ops.cpu.library import Library, find_library
from kat.ops.torch_internals import (
    in_function_transform,
    is_exporting_onnx,
    is_ordinary,
    refuse_forward_mode,
)
from kat.ops.triton import backend as triton
from kat.ops.warning import warn_once

Gradients: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""The gradients of x, numerator, denominator and v."""


class Backend(Protocol):
    """The members of a backend's module. All tensors are on its device."""

    DEVICE_TYPE: str
    CONVERTS: bool
    """True if the kernels write y in any dtype, False if only in the dtype of x."""

    def supports(
        self, f: Rational, x: Tensor, v: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> bool:
        """Return True if the kernels take these arguments; y, or its gradient, is of the dtype.

        Warns once if the backend is unavailable, or its kernels are wrong.
        """

    def check_available(
        self, f: Rational, x: Tensor, v: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> None:
        """Raise an error that says why the kernels do not run for these arguments."""

    def forward(self, f: Rational, x: Tensor, v: Tensor | None = None, *, y: Tensor) -> None:
        """y <- F(x), or F(x) v."""

    def backward(
        self,
        f: Rational,
        grad: Tensor,
        x: Tensor,
        v: Tensor | None = None,
        *,
        dx: Tensor,
        dv: Tensor | None = None,
        coefficients: bool = True,
    ) -> tuple[Tensor, Tensor] | None:
        """Fill dx, and dv of a gate; return the gradients of the coefficients if asked for."""


BACKENDS: dict[str, Backend] = {"cpu": cpu, "triton": triton}
"""Backends by the name that ``impl=`` takes. A new backend is one entry here."""
KERNELS = {backend.DEVICE_TYPE: backend for backend in BACKENDS.values()}
"""Backends by device type."""


def kernel_name(device: torch.device) -> str:
    """Return the kernel of a device: ``triton``, an instruction set of the CPU, or ``off``."""
    if device.type == "cuda":
        return "off" if triton.load()[0] is None else "triton"
    library = find_library() if device.type == "cpu" else None
    return library.name if isinstance(library, Library) else "off"


# ---- the kernels' calls


def run_forward(
    f: Rational,
    x: Tensor,
    v: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """F(x), or F(x) v, in x's dtype or another, by a backend: by default the one of x's device."""
    backend = backend or _kernel(f, x, v, dtype=dtype)
    wanted = dtype or x.dtype
    y = _empty_like(x, v, wanted if backend is None or backend.CONVERTS else x.dtype)
    if backend is None:
        y.copy_(plain.forward(f, x, v))
    elif x.numel():
        backend.forward(f, x, v, y=y)
    return y if dtype is None else y.to(dtype)


def run_backward(
    f: Rational,
    grad: Tensor,
    x: Tensor,
    v: Tensor | None = None,
    *,
    coefficients: bool = True,
    backend: Backend | None = None,
) -> Gradients:
    """Return the gradients of ``sum(grad * F(x) * v)``; for ``coefficients`` only if asked for."""
    backend = backend or _kernel(f, x, v, dtype=grad.dtype)
    dx = _empty_like(x, v, x.dtype)
    dv = None if v is None else _empty_like(v, v, v.dtype)
    sums: tuple[Tensor, Tensor] | None = None
    if backend is None or not x.numel():
        of_x, da, db, of_v = plain.backward(f, grad, x, v)
        dx.copy_(of_x)
        if dv is not None and of_v is not None:
            dv.copy_(of_v)
        sums = da, db
    else:
        sums = backend.backward(f, grad, x, v, dx=dx, dv=dv, coefficients=coefficients)
    if not coefficients or sums is None:
        return dx, None, None, dv
    da, db = sums
    da, db = da.to(f.numerator.dtype).contiguous(), db.to(f.denominator.dtype).contiguous()
    return dx, da, db, dv


def _kernel(
    f: Rational, x: Tensor, v: Tensor | None, *, dtype: torch.dtype | None
) -> Backend | None:
    """Return the backend of x's device, if it supports the arguments."""
    backend = KERNELS.get(x.device.type)
    if backend is None:
        warn_once(
            f"kat.rational has no kernel for {x.device.type.upper()} and runs as plain PyTorch, in"
            " about 40 operations a call. Without this warning: impl='reference'"
        )
    elif backend.supports(f, x, v, dtype=dtype):
        return backend
    return None


def _empty_like(x: Tensor, v: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return an output: laid out like x, or contiguous where F is a gate."""
    return torch.empty_like(x, dtype=dtype) if v is None else x.new_empty(x.shape, dtype=dtype)


# ---- ordinary tensors: without torch's dispatcher


class Value(torch.autograd.Function):
    """F(x), or F(x) v, of ordinary tensors, differentiable; nothing is checked.

    The backend is None for the one of x's device. Triton's interpreter runs on CPU tensors, and
    its gradients cannot be differentiated again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        v: Tensor | None,
        form: str,
        dtype: torch.dtype | None,
        backend: Backend | None,
    ) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator, v)
        ctx.form, ctx.backend = form, backend
        f = Rational(numerator, denominator, form)
        return run_forward(f, x, v, dtype=dtype, backend=backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        differentiate = _gradients if ctx.backend is None else _gradients_once
        dx, da, db, dv = differentiate(ctx, grad)
        return dx, da, db, dv, None, None, None


@torch.autograd.function.once_differentiable
def _gradients_once(ctx: Any, grad: Tensor) -> Gradients:
    x, numerator, denominator, v = ctx.saved_tensors
    return run_backward(Rational(numerator, denominator, ctx.form), grad, x, v, backend=ctx.backend)


# ---- all others: the operators


def dispatched(
    f: Rational,
    x: Tensor,
    v: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    impl: str | None = None,
) -> Tensor:
    """F(x), or F(x) v, by torch's dispatcher, a backend that is named, or plain PyTorch."""
    check_choice("impl", impl, IMPLS)
    onnx, transformed = is_exporting_onnx(), in_function_transform()
    a, b, form = f
    if onnx:
        return reference.forward(f, x, v).to(dtype or x.dtype)
    if impl in BACKENDS:
        if transformed:
            raise RuntimeError(
                f"impl={impl!r} does not work inside torch.func transforms and forward-mode AD; use"
                " impl='reference', or None, which picks it there"
            )
        backend = BACKENDS[impl]
        backend.check_available(f, x, v, dtype=dtype)
        if x.device.type != backend.DEVICE_TYPE:
            interpreted: Tensor = Value.apply(x, a, b, v, form, dtype, backend)
            return interpreted
    if impl == "reference" or transformed:
        return plain.rational(f, x, v).to(dtype or x.dtype)
    y: Tensor = torch.ops.kat.rational.default(x, a, b, v, form=form, dtype=dtype)
    return y


def gradients(
    f: Rational, grad: Tensor, x: Tensor, v: Tensor | None = None, *, coefficients: bool = True
) -> Gradients:
    """Return the gradients of ``sum(grad * F(x) * v)``, differentiable again.

    A backward pass can itself be mapped or differentiated in forward mode
    (``is_grads_batched=True``, Hessian-vector products), even where the forward pass was not.
    """
    a, b, form = f
    if in_function_transform():
        return plain.backward(f, grad, x, v)
    if torch.is_grad_enabled():
        from kat.ops import derivative  # few need derivatives of the second order

        if derivative.has_kernel(f, grad, x):
            return derivative.gradients(f, grad, x, v, coefficients=coefficients)
    elif is_ordinary(grad, x, a, b, v) and grad.device.type in KERNELS:
        return run_backward(f, grad, x, v, coefficients=coefficients)
    dx, da, db, dv = torch.ops.kat.rational_backward.default(
        grad, x, a, b, v, form=form, coefficients=coefficients
    )
    sums = (da, db) if coefficients else (None, None)
    return dx, *sums, None if v is None else dv


def _gradients(ctx: Any, grad: Tensor) -> Gradients:
    """Return the gradients of an operator; not of frozen coefficients, whose sums cost a third."""
    x, numerator, denominator, v = ctx.saved_tensors
    _, of_numerator, of_denominator, *_ = ctx.needs_input_grad
    f = Rational(numerator, denominator, ctx.form)
    return gradients(f, grad, x, v, coefficients=of_numerator or of_denominator)


def _setup(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)
    ctx.form = keyword_only_inputs["form"]
    ctx.coefficients = keyword_only_inputs.get("coefficients", True)


def _forward(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: str = "A",
    dtype: torch.dtype | None = None,
) -> Tensor:
    refuse_forward_mode()
    return run_forward(Rational(numerator, denominator, form), x, v, dtype=dtype)


def _fake_forward(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: str = "A",
    dtype: torch.dtype | None = None,
) -> Tensor:
    return _empty_like(x, v, dtype or x.dtype)


def _backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None,
    *,
    form: str,
    coefficients: bool = True,
) -> tuple[Tensor, ...]:
    refuse_forward_mode()
    f = Rational(numerator, denominator, form)
    return _without_none(run_backward(f, grad, x, v, coefficients=coefficients), x)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None,
    *,
    form: str,
    coefficients: bool = True,
) -> tuple[Tensor, ...]:
    da = numerator.new_empty(numerator.shape) if coefficients else None
    db = denominator.new_empty(denominator.shape) if coefficients else None
    dv = None if v is None else v.new_empty(v.shape)
    return _without_none((_empty_like(x, v, x.dtype), da, db, dv), x)


def _without_none(gradients: Gradients, x: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients as an operator must: an empty tensor in the place of None."""
    tensors = []
    for gradient in gradients:
        tensors.append(x.new_empty(0) if gradient is None else gradient)
    return tuple(tensors)


def _second_order(
    ctx: Any, d_dx: Tensor, d_da: Tensor, d_db: Tensor, d_dv: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the backward operator, by differentiating its formula."""
    inputs = [tensor for tensor in ctx.saved_tensors if tensor is not None]
    is_gate = len(inputs) == len(ctx.saved_tensors)
    computed = (True, ctx.coefficients, ctx.coefficients, is_gate)

    def formula(
        grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, v: Tensor | None = None
    ) -> list[Any]:
        found = plain.backward(Rational(numerator, denominator, ctx.form), grad, x, v)
        return list(compress(found, computed))

    pull_back = torch.func.vjp(formula, *inputs)[1]
    found = pull_back(list(compress((d_dx, d_da, d_db, d_dv), computed)))
    return found if is_gate else (*found, None)


torch.library.define(
    "kat::rational",
    "(Tensor x, Tensor numerator, Tensor denominator, Tensor? v=None, *, str form='A',"
    " ScalarType? dtype=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "kat::rational_backward",
    "(Tensor grad, Tensor x, Tensor numerator, Tensor denominator, Tensor? v, *, str form,"
    " bool coefficients=True) -> (Tensor dx, Tensor dnumerator, Tensor ddenominator, Tensor dv)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("kat::rational", "CompositeExplicitAutograd", _forward)
torch.library.impl("kat::rational_backward", "CompositeExplicitAutograd", _backward)
torch.library.register_fake("kat::rational", _fake_forward)
torch.library.register_fake("kat::rational_backward", _fake_backward)
torch.library.register_autograd("kat::rational", _gradients, setup_context=_setup)
torch.library.register_autograd("kat::rational_backward", _second_order, setup_context=_setup)
