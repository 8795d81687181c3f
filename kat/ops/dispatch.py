"""The operators ``kat::rational*``, their backends, and the short eager path to the same kernels.

Each operator is registered with ``torch.library``, with a kernel for each backend's device type.
Where a device has no kernel, or the kernel does not support the arguments, the reference runs. In
either case only the inputs are kept for the backward pass.

An operator registered from Python costs tens of microseconds a training step in dispatch alone, as
much as the kernel itself takes on a small layer. So plain tensors, where nothing observes or
rewrites operators, go to the kernel directly. The arithmetic is the same on both paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from kat.ops import reference
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import (
    in_function_transform,
    is_plain_eager,
    is_profiling,
    refuse_forward_mode,
)
from kat.ops.triton import backend as triton

Gradients = tuple[Tensor, Tensor, Tensor]
"""Those of x, numerator and denominator."""


class Backend(Protocol):
    """What the module of a backend defines. All tensors are on its device."""

    DEVICE_TYPE: str

    def supports(self, x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
        """Whether the kernels take these arguments. Warns once if the backend is unavailable."""

    def forward(self, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        """F(x), with the strides of ``torch.empty_like(x)``."""

    def backward(
        self, grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
    ) -> Gradients:
        """The gradients of ``sum(grad * F(x))``."""

    def backward_recompute(
        self, grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``backward``, and F(x) from the same pass over memory."""

    def rational(self, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        """F(x), differentiable, by this backend, or an error that says why it is unavailable."""


BACKENDS: dict[str, Backend] = {"cpu": cpu, "triton": triton}
"""By the name that ``impl=`` takes. A new backend is one entry here."""

KERNELS: dict[str, dict[str, Callable[..., Any]]] = {}
"""By device type and operator: the function that runs below autograd."""


def _forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    refuse_forward_mode()
    return torch.empty_like(x).copy_(reference.forward(x, numerator, denominator, form))


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    refuse_forward_mode()
    dx, da, db = reference.backward(grad, x, numerator, denominator, form)
    return torch.empty_like(x).copy_(dx), da.contiguous(), db.contiguous()


def _backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = _backward(grad, x, numerator, denominator, form)
    return *gradients, _forward(x, numerator, denominator, form)


def _fake_forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(x),
        torch.empty_like(numerator, memory_format=contiguous),
        torch.empty_like(denominator, memory_format=contiguous),
    )


def _fake_backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = _fake_backward(grad, x, numerator, denominator, form)
    return *gradients, torch.empty_like(x)


def kernel_or_reference(
    backend: Backend, function: str, on_reference: Callable[..., Any]
) -> Callable[..., Any]:
    """A function of the backend for the arguments it supports, the reference for all others."""

    def run(*arguments: Any) -> Any:
        refuse_forward_mode()
        x, numerator, denominator = arguments[-4:-1]
        if backend.supports(x, numerator, denominator):
            return getattr(backend, function)(*arguments)
        return on_reference(*arguments)

    return run


_INPUTS = "Tensor x, Tensor numerator, Tensor denominator, str form"
for _operator, _schema, _function, _reference, _fake in (
    ("rational", f"({_INPUTS}) -> Tensor", "forward", _forward, _fake_forward),
    (
        "rational_backward",
        f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
        "backward",
        _backward,
        _fake_backward,
    ),
    (
        "rational_backward_recompute",
        f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
        "backward_recompute",
        _backward_recompute,
        _fake_backward_recompute,
    ),
):
    _name = f"kat::{_operator}"
    torch.library.define(_name, _schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(_name, "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(_name, _fake)
    for _backend in BACKENDS.values():
        _kernel = kernel_or_reference(_backend, _function, _reference)
        KERNELS.setdefault(_backend.DEVICE_TYPE, {})[_operator] = _kernel
        torch.library.impl(_name, _backend.DEVICE_TYPE.upper(), _kernel)


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), differentiable, by the operator or, under a transform, the reference; no checks."""
    if in_function_transform():
        return reference.rational(x, numerator, denominator, form)
    return torch.ops.kat.rational.default(x, numerator, denominator, form)


def takes_short_path(x: Tensor, *others: Tensor) -> bool:
    """Whether the tensors may go to the kernel of their device without torch's dispatcher."""
    if not is_plain_eager(x, *others) or is_profiling() or in_function_transform():
        return False
    return x.device.type in KERNELS


def short_path(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """As :func:`rational`, of tensors that take the short path."""
    if torch.is_grad_enabled():
        return _Rational.apply(x, numerator, denominator, form)
    return KERNELS[x.device.type]["rational"](x, numerator, denominator, form)


def rational_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator, differentiable again.

    A backward pass can itself be mapped or differentiated in forward mode
    (``is_grads_batched=True``, Hessian-vector products), even where the forward pass was not.
    """
    if in_function_transform():
        return reference.backward(grad, x, numerator, denominator, form)
    if torch.is_grad_enabled() or not takes_short_path(x, numerator, denominator, grad):
        return torch.ops.kat.rational_backward.default(grad, x, numerator, denominator, form)
    return KERNELS[x.device.type]["rational_backward"](grad, x, numerator, denominator, form)


def rational_backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`rational_backward`, and F(x): in one pass, or two if they are to be differentiated.

    For a backward pass that needs F(x) where the forward pass has kept x alone.
    """
    if not torch.is_grad_enabled() and not in_function_transform():
        return torch.ops.kat.rational_backward_recompute(grad, x, numerator, denominator, form)
    gradients = rational_backward(grad, x, numerator, denominator, form)
    return *gradients, rational(x, numerator, denominator, form)


class _Rational(torch.autograd.Function):
    """The short path, differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        _save_inputs(ctx, (x, numerator, denominator, form))
        return KERNELS[x.device.type]["rational"](x, numerator, denominator, form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _first_order(ctx, grad)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
    *tensors, ctx.form = inputs
    ctx.save_for_backward(*tensors)


def _first_order(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, numerator, denominator = ctx.saved_tensors
    return *rational_backward(grad, x, numerator, denominator, ctx.form), None


def _second_order(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiates the gradient formula of the reference, which is differentiable again."""

    def gradients(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Gradients:
        return reference.backward(grad, x, a, b, ctx.form)

    pullback = torch.func.vjp(gradients, *ctx.saved_tensors)[1]
    return *pullback(grads), None


torch.library.register_autograd("kat::rational", _first_order, setup_context=_save_inputs)
torch.library.register_autograd("kat::rational_backward", _second_order, setup_context=_save_inputs)
