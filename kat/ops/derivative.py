"""The derivatives of F as functions of their own, for losses that differentiate a network again.

    d/dx F^(k)(x) = F^(k+1)(x)

So the gradient for x of a backward pass that is itself differentiated is a product with a
derivative, which a kernel computes. Otherwise autograd would record the operations of the
reference, and differentiate each of them again. On the CPU, in float32 and float64, up to the third
derivative; beyond it, and for the gradients of the coefficients' gradients, by the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kat.ops import reference
from kat.ops.cpu import backend as cpu
from kat.ops.cpu.library import loaded_library
from kat.ops.torch_internals import in_function_transform, is_eager

MAX_ORDER = 3
"""The highest order of the derivatives that have kernels."""


def has_kernel(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Return True if :func:`gradients` takes these: on the CPU, x in float32 or float64."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    if not is_eager(grad, x, numerator, denominator) or in_function_transform():
        return False
    return cpu.supports(x, numerator, denominator, form="A")


def gradients(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None,
    *,
    form: str,
    coefficients: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of ``sum(grad * F(x) * v)``, differentiable again.

    Args:
        grad, x, numerator, denominator: such that there :func:`has_kernel`.
        v: the value of a gate, or None.
        form: ``"A"`` or ``"B"``.
        coefficients: compute their gradients.
    """
    dv = None
    if v is not None:
        dv = grad * derivative(x, numerator, denominator, form=form, order=0)
        grad = grad * v
    if coefficients:
        return *_gradients(grad, x, numerator, denominator, form=form, order=0), dv
    slope = derivative(x, numerator, denominator, form=form, order=1)
    return grad.to(x.dtype) * slope, None, None, dv


def derivative(
    x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str, order: int
) -> Tensor:
    """F^(order)(x), differentiable to any order, where there :func:`has_kernel`."""
    if order <= MAX_ORDER:
        try:
            y: Tensor = _Derivative.apply(x, numerator, denominator, form, order)
            return y
        except _OutOfRangeError:
            pass
    return _of_reference(form, order)(x, numerator, denominator)


class _OutOfRangeError(Exception):
    """Powers of some x would overflow."""


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, order: int
    ) -> Tensor:
        y = torch.empty_like(x)
        a, b = cpu.dense_coefficients(x, numerator, denominator)
        if x.numel():
            values = cpu.laid_out_like(y, x)
            if not loaded_library().run(form=form, x=values, a=a, b=b, y=y, order=order):
                raise _OutOfRangeError
        ctx.save_for_backward(x, numerator, denominator)
        ctx.form, ctx.order = form, order
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, numerator, denominator = ctx.saved_tensors
        dx, da, db = _gradients(grad, x, numerator, denominator, form=ctx.form, order=ctx.order)
        return dx, da, db, None, None


class _CoefficientGradients(torch.autograd.Function):
    """The gradients of ``sum(grad * F^(order)(x))`` for numerator and denominator."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        form: str,
        order: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(grad, x, numerator, denominator)
        ctx.form, ctx.order = form, order
        _, da, db = _unrecorded(grad, x, numerator, denominator, form=form, order=order)
        return da, db

    @staticmethod
    def backward(ctx: Any, d_da: Tensor, d_db: Tensor) -> tuple[Tensor | None, ...]:
        def coefficient_gradients(
            grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
        ) -> tuple[Tensor, Tensor]:
            _, da, db = _by_reference(
                grad, x, numerator, denominator, form=ctx.form, order=ctx.order
            )
            return da, db

        pull_back = torch.func.vjp(coefficient_gradients, *ctx.saved_tensors)[1]
        return *pull_back((d_da, d_db)), None, None


def _gradients(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str, order: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``sum(grad * F^(order)(x))`` for x and the coefficients."""
    if not torch.is_grad_enabled():
        return _unrecorded(grad, x, numerator, denominator, form=form, order=order)
    if in_function_transform():
        return _by_reference(grad, x, numerator, denominator, form=form, order=order)
    slope = derivative(x, numerator, denominator, form=form, order=order + 1)
    da, db = _CoefficientGradients.apply(grad, x, numerator, denominator, form, order)
    return grad.to(x.dtype) * slope, da, db


def _unrecorded(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str, order: int
) -> tuple[Tensor, Tensor, Tensor]:
    if order <= MAX_ORDER and is_eager(grad) and not in_function_transform():
        found = kernel_gradients(grad, x, numerator, denominator, form=form, order=order)
        if found is not None:
            return found
    return _by_reference(grad, x, numerator, denominator, form=form, order=order)


def kernel_gradients(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str, order: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the kernel's gradients of ``sum(grad * F^(order)(x))``; None if powers overflow."""
    dx = torch.empty_like(x)
    a, b = cpu.dense_coefficients(x, numerator, denominator)
    da, db = torch.zeros_like(a), torch.zeros_like(b)
    if x.numel():
        x, grad = cpu.laid_out_like(dx, x), cpu.laid_out_like(dx, grad)
        done = loaded_library().run(
            form=form, x=x, a=a, b=b, grad=grad, dx=dx, da=da, db=db, order=order
        )
        if not done:
            return None
    return dx, da.to(numerator.dtype), db.to(denominator.dtype)


def _by_reference(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str, order: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`_gradients` by plain operations, which anything can differentiate again."""
    if order == 0:
        dx, da, db, _ = reference.backward(grad, x, numerator, denominator, form=form)
        return dx, da, db
    y, pull_back = torch.func.vjp(_of_reference(form, order), x, numerator, denominator)[:2]
    dx, da, db = pull_back(grad.to(y.dtype))
    return dx, da, db


def _of_reference(form: str, order: int) -> Callable[..., Tensor]:
    """F^(order), order >= 1, by the reference, as a function of x, numerator and denominator."""

    def function(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        return reference.backward(torch.ones_like(x), x, numerator, denominator, form=form)[0]

    for _ in range(order - 1):
        function = _derived(function)
    return function


def _derived(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the derivative for x of a function that is elementwise in x."""
    return torch.func.grad(
        lambda x, numerator, denominator: function(x, numerator, denominator).sum()
    )
