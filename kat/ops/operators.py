"""The operators ``kat::rational``, F(x), and ``kat::gated_rational``, F(x) v, and their gradients.

They are registered with ``torch.library``. Each runs the kernel of x's device, or the reference
where there is none or it does not support the arguments. In either case only the inputs are kept
for the backward pass.

An operator registered from Python costs tens of microseconds a training step in dispatch alone, as
much as the kernel itself takes on a small layer. So ordinary tensors, where nothing observes or
rewrites operators, go to the kernel directly (:func:`eager`). The arithmetic is the same.

Throughout, ``arguments`` are an operator's arguments: x, v if it is gated, numerator, denominator
and form. Gradients come in the order of the tensors.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from kat.ops import reference
from kat.ops.arguments import check_impl
from kat.ops.cpu import backend as cpu
from kat.ops.cpu.library import Library, find_library
from kat.ops.torch_internals import (
    in_function_transform,
    is_exporting_onnx,
    is_ordinary,
    refuse_forward_mode,
)
from kat.ops.triton import backend as triton


class Backend(Protocol):
    """The members of a backend's module. All tensors are on its device."""

    DEVICE_TYPE: str
    CONVERTS: bool
    """True if the kernels write y in any dtype, False if only in the dtype of x."""

    def supports(
        self,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        form: str,
        v: Tensor | None = None,
    ) -> bool:
        """Return True if the kernels take these arguments.

        Warns once if the backend is unavailable, or its kernels are wrong.
        """

    def check_available(
        self,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        form: str,
        v: Tensor | None = None,
    ) -> None:
        """Raises an error that says why the kernels do not run for these arguments."""

    def forward(
        self,
        y: Tensor,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        form: str,
        v: Tensor | None = None,
    ) -> None:
        """y <- F(x), or F(x) v."""

    def backward(
        self,
        dx: Tensor,
        y: Tensor | None,
        grad: Tensor,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        form: str,
        v: Tensor | None = None,
        dv: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Fills dx, y if given, and dv of a gate; returns the gradients of the coefficients."""


BACKENDS: dict[str, Backend] = {"cpu": cpu, "triton": triton}
"""Backends by the name that ``impl=`` takes. A new backend is one entry here."""
KERNELS = {backend.DEVICE_TYPE: backend for backend in BACKENDS.values()}
"""Backends by device type."""


def kernel_name(device: torch.device) -> str:
    """The kernel of a device: ``triton``, an instruction set of the CPU, or ``off`` without one."""
    if device.type == "cuda":
        return "off" if triton.load()[0] is None else "triton"
    library = find_library() if device.type == "cpu" else None
    return library.name if isinstance(library, Library) else "off"


def value(*arguments: Any, dtype: torch.dtype | None = None) -> Tensor:
    """F(x), or F(x) v, differentiable, in x's dtype or another; nothing is checked."""
    if is_ordinary(*arguments[:-1]) and arguments[0].device.type in KERNELS:
        return eager(None, *arguments, dtype=dtype)
    return dispatched(None, *arguments, dtype=dtype)


def dispatched(impl: str | None, *arguments: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Computes :func:`value` by torch's dispatcher, a backend that is named, or the reference."""
    x, *gate, numerator, denominator, form = arguments
    check_impl(impl)
    onnx, transformed = is_exporting_onnx(), in_function_transform()
    y: Tensor
    if impl in BACKENDS and not onnx:
        if transformed:
            raise RuntimeError(
                f"impl={impl!r} does not work inside torch.func transforms and forward-mode AD; use"
                " impl='reference', or None, which picks it there"
            )
        backend = BACKENDS[impl]
        backend.check_available(x, numerator, denominator, form, *gate)
        if x.device.type != backend.DEVICE_TYPE:
            return eager(backend, *arguments, dtype=dtype)
    if onnx or impl == "reference" or (impl is None and transformed):
        formula = reference.plain_rational if onnx else reference.rational
        return formula(x, numerator, denominator, form, *gate).to(dtype or x.dtype)
    y = operator("", arguments)(*arguments, **({} if dtype is None else {"dtype": dtype}))
    return y


def gradients(grad: Tensor, *arguments: Any, recompute: bool = False) -> tuple[Tensor, ...]:
    """The gradients of ``sum(grad * F(x) * v)`` for all tensors, differentiable again.

    A backward pass can itself be mapped or differentiated in forward mode
    (``is_grads_batched=True``, Hessian-vector products), even where the forward pass was not.

    Args:
        grad: the gradient of the output.
        *arguments: of the operator.
        recompute: also return the output in grad's dtype, from the same pass over memory unless the
            gradients are to be differentiated.
    """
    if torch.is_grad_enabled() or in_function_transform():
        found = _recorded_gradients(grad, *arguments)
        return (*found, value(*arguments, dtype=grad.dtype)) if recompute else found
    if is_ordinary(grad, *arguments[:-1]) and grad.device.type in KERNELS:
        return run_backward(grad, *arguments, recompute=recompute)
    suffix = "_backward_recompute" if recompute else "_backward"
    result: tuple[Tensor, ...] = operator(suffix, arguments)(grad, *arguments)
    return result


def _recorded_gradients(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from kat.ops import derivative  # few need derivatives of the second order

    x, *gate, numerator, denominator, form = arguments
    if in_function_transform():
        return reference.backward(grad, x, numerator, denominator, form, *gate)
    if not derivative.has_kernel(grad, x, numerator, denominator):
        found: tuple[Tensor, ...] = operator("_backward", arguments)(grad, *arguments)
        return found
    f_grad = grad * gate[0] if gate else grad
    dx, da, db = derivative.gradients(f_grad, x, numerator, denominator, form)
    dv = [grad * value(x, numerator, denominator, form)] if gate else []
    return dx, *dv, da, db


def packed_gradients(grad: Tensor, h: Tensor, gate_last: bool, *others: Any) -> tuple[Tensor, ...]:
    """The gradients for h, of which x and v are the halves, and the coefficients; and F(x) v.

    A kernel writes the gradients of x and v into one tensor: to join them later takes two thirds of
    its time again.

    Args:
        grad: of F(x) v.
        h: (..., 2 C): x and v, or v and x if ``gate_last``.
        gate_last: of the gate.
        *others: numerator, denominator and form.
    """
    x, v = halves(h, gate_last)
    if torch.is_grad_enabled() or not is_ordinary(grad, h, *others[:-1]):
        dx, dv, da, db, y = gradients(grad, x, v, *others, recompute=True)
        return torch.cat((dv, dx) if gate_last else (dx, dv), dim=-1), da, db, y
    dh = h.new_empty(h.shape)
    _, _, da, db, y = run_backward(grad, x, v, *others, recompute=True, into=halves(dh, gate_last))
    return dh, da, db, y


def halves(h: Tensor, gate_last: bool) -> tuple[Tensor, Tensor]:
    """x and v, views of h (..., 2 C): x is the first half, or the second one if ``gate_last``."""
    first, second = h.chunk(2, dim=-1)
    return (second, first) if gate_last else (first, second)


def eager(backend: Backend | None, *arguments: Any, dtype: torch.dtype | None = None) -> Tensor:
    """The operator on ordinary tensors, differentiable, without torch's dispatcher.

    Args:
        backend: None for the one of x's device. Triton's interpreter runs on CPU tensors, and its
            gradients cannot be differentiated again.
        *arguments: of the operator.
        dtype: of the output; x's if None.
    """
    if torch.is_grad_enabled():
        y: Tensor = _Eager.apply(backend, dtype, *arguments)
        return y
    return run_forward(*arguments, backend=backend, dtype=dtype)


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: Backend | None, dtype: torch.dtype | None, *arguments: Any
    ) -> Tensor:
        ctx.backend = backend
        _save(ctx, arguments)
        return run_forward(*arguments, backend=backend, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.backend is None:
            return None, None, *_gradients(ctx, grad)
        return None, None, *_gradients_once(ctx, grad, *ctx.saved_tensors), None


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any = None, **_: Any) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.form = inputs[-1]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *gradients(grad, *ctx.saved_tensors, ctx.form), None


@torch.autograd.function.once_differentiable
def _gradients_once(ctx: Any, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return run_backward(grad, *tensors, ctx.form, backend=ctx.backend)


def _second_order(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of a backward operator, by differentiating the reference's formula."""

    def formula(grad: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        *gate, numerator, denominator = tensors
        return reference.backward(grad, x, numerator, denominator, ctx.form, *gate)

    pull_back = torch.func.vjp(formula, *ctx.saved_tensors)[1]
    return *pull_back(grads), None


def _kernel(
    x: Tensor, numerator: Tensor, denominator: Tensor, form: str, v: Tensor | None = None
) -> Backend | None:
    """The backend of x's device, if it supports the arguments."""
    backend = KERNELS.get(x.device.type)
    if backend is None or not backend.supports(x, numerator, denominator, form, v):
        return None
    return backend


def run_forward(
    *arguments: Any, backend: Backend | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    x, *gate, numerator, denominator, form = arguments
    backend = backend or _kernel(x, numerator, denominator, form, *gate)
    y = _output(x, gate, backend, dtype)
    if backend is None:
        y.copy_(reference.forward(x, numerator, denominator, form, *gate))
    elif x.numel():
        backend.forward(y, x, numerator, denominator, form, *gate)
    return y if dtype is None else y.to(dtype)


def run_backward(
    grad: Tensor,
    *arguments: Any,
    recompute: bool = False,
    backend: Backend | None = None,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """The gradients, and y in grad's dtype if ``recompute``; dx and dv go into ``into``."""
    x, *gate, numerator, denominator, form = arguments
    backend = backend or _kernel(x, numerator, denominator, form, *gate)
    dx, *dv = into or [_like(t, gate) for t in (x, *gate)]
    y = _output(x, gate, backend, grad.dtype) if recompute else None
    if backend is None:
        found = reference.backward(grad, x, numerator, denominator, form, *gate)
        for place, gradient in zip((dx, *dv), found, strict=False):
            place.copy_(gradient)
        da, db = found[-2:]
        if y is not None:
            y.copy_(reference.forward(x, numerator, denominator, form, *gate))
    elif x.numel():
        da, db = backend.backward(dx, y, grad, x, numerator, denominator, form, *gate, *dv)
    else:
        da, db = torch.zeros_like(numerator), torch.zeros_like(denominator)
    da, db = da.to(numerator.dtype).contiguous(), db.to(denominator.dtype).contiguous()
    return (dx, *dv, da, db) if y is None else (dx, *dv, da, db, y.to(grad.dtype))


def _output(
    x: Tensor, gate: list[Tensor], backend: Backend | None, dtype: torch.dtype | None
) -> Tensor:
    """An output in a dtype, or in x's where the backend does not convert."""
    converts = dtype is not None and (backend is None or backend.CONVERTS)
    return _like(x, gate, dtype if converts else x.dtype)


def _like(x: Tensor, gate: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """An output: laid out like x, or contiguous where it is of a gate."""
    return x.new_empty(x.shape, dtype=dtype) if gate else torch.empty_like(x, dtype=dtype)


def _fake_forward(*arguments: Any, dtype: torch.dtype | None = None) -> Tensor:
    x, *gate, _, _, _ = arguments
    return _like(x, gate, dtype)


def _fake_backward(_: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    x, *gate, numerator, denominator, _ = arguments
    coefficients = (c.new_empty(c.shape) for c in (numerator, denominator))
    return *(_like(t, gate) for t in (x, *gate)), *coefficients


def _define(name: str, tensors: str) -> None:
    """Registers ``kat::NAME``, ``NAME_backward`` and ``NAME_backward_recompute``."""
    inputs = ", ".join(f"Tensor {tensor}" for tensor in tensors.split()) + ", str form"
    outputs = ", ".join("Tensor" for _ in tensors.split())

    def recompute(*arguments: Any) -> tuple[Tensor, ...]:
        return run_backward(*arguments, recompute=True)

    def fake_recompute(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return *_fake_backward(grad, *arguments), _fake_forward(*arguments, dtype=grad.dtype)

    for suffix, schema, function, fake, gradient in (
        (
            "",
            f"({inputs}, *, ScalarType? dtype=None) -> Tensor",
            run_forward,
            _fake_forward,
            _gradients,
        ),
        (
            "_backward",
            f"(Tensor grad, {inputs}) -> ({outputs})",
            run_backward,
            _fake_backward,
            _second_order,
        ),
        (
            "_backward_recompute",
            f"(Tensor grad, {inputs}) -> ({outputs}, Tensor)",
            recompute,
            fake_recompute,
            None,
        ),
    ):
        operator = f"kat::{name}{suffix}"
        torch.library.define(operator, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(
            operator, "CompositeExplicitAutograd", _without_forward_mode(name, function)
        )
        torch.library.register_fake(operator, fake)
        if gradient is not None:
            torch.library.register_autograd(operator, gradient, setup_context=_save)


def _without_forward_mode(name: str, function: Any) -> Any:
    def run(*arguments: Any, **options: Any) -> Any:
        refuse_forward_mode(name)
        return function(*arguments, **options)

    return run


def operator(suffix: str, arguments: tuple[Any, ...]) -> Any:
    """The operator of these arguments, by torch's dispatcher."""
    name = "rational" if len(arguments) == 4 else "gated_rational"
    return getattr(torch.ops.kat, name + suffix).default


_define("rational", "x numerator denominator")
_define("gated_rational", "x v numerator denominator")
