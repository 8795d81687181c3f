"""The derivatives of F as functions of their own, for losses that differentiate a network again.

    d/dx F^(k)(x) = F^(k+1)(x)

So the gradient for x of a backward pass that is itself differentiated is a product with a
derivative, which a kernel computes. Otherwise autograd would record the operations of the
reference, and differentiate each of them again. On the CPU, in float32 and float64, up to the third
derivative; beyond it, and for the gradients of the coefficients' gradients, by the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kat.ops import plain
from kat.ops.arguments import Rational
from kat.ops.cpu import backend as cpu
from kat.ops.cpu.library import in_range, loaded_library
from kat.ops.torch_internals import in_function_transform, is_eager

MAX_ORDER = 3
"""The highest order of the derivatives that have kernels."""
_Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""The gradients of x, numerator and denominator."""


def has_kernel(f: Rational, grad: Tensor, x: Tensor) -> bool:
    """Return True if :func:`gradients` takes these: on the CPU, x in float32 or float64."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    if not is_eager(grad, x, f.numerator, f.denominator) or in_function_transform():
        return False
    return cpu.supports(f, x)


def gradients(
    f: Rational, grad: Tensor, x: Tensor, v: Tensor | None, *, coefficients: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of ``sum(grad * F(x) * v)``, differentiable again.

    Args:
        f, grad, x: such that there :func:`has_kernel`.
        v: the value of a gate, or None.
        coefficients: compute their gradients.
    """
    dv = None
    if v is not None:
        dv = grad * derivative(f, x, order=0)
        grad = grad * v
    if coefficients:
        return *_gradients(f, grad, x, order=0), dv
    return grad.to(x.dtype) * derivative(f, x, order=1), None, None, dv


def derivative(f: Rational, x: Tensor, *, order: int) -> Tensor:
    """F^(order)(x), differentiable to any order, where there :func:`has_kernel`."""
    if order > MAX_ORDER:
        return _of_reference(f.form, order)(x, f.numerator, f.denominator)
    y: Tensor = _Derivative.apply(x, f.numerator, f.denominator, f.form, order)
    return y


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, order: int
    ) -> Tensor:
        y = torch.empty_like(x)
        f = cpu.dense(Rational(numerator, denominator, form), x)
        if x.numel():
            library = loaded_library()
            values = cpu.laid_out_like(y, x)
            if not in_range(library.call(library.arguments(f, values, y=y, order=order))):
                y = _of_reference(form, order)(x, numerator, denominator)
        ctx.save_for_backward(x, numerator, denominator)
        ctx.form, ctx.order = form, order
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, numerator, denominator = ctx.saved_tensors
        f = Rational(numerator, denominator, ctx.form)
        dx, da, db = _gradients(f, grad, x, order=ctx.order)
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
        _, da, db = _unrecorded(Rational(numerator, denominator, form), grad, x, order=order)
        return da, db

    @staticmethod
    def backward(ctx: Any, d_da: Tensor, d_db: Tensor) -> tuple[Tensor | None, ...]:
        def of_coefficients(
            grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor
        ) -> tuple[Tensor, Tensor]:
            f = Rational(numerator, denominator, ctx.form)
            _, da, db = _by_reference(f, grad, x, order=ctx.order)
            return da, db

        pull_back = torch.func.vjp(of_coefficients, *ctx.saved_tensors)[1]
        return *pull_back((d_da, d_db)), None, None


def _gradients(f: Rational, grad: Tensor, x: Tensor, *, order: int) -> _Gradients:
    """Return the gradients of ``sum(grad * F^(order)(x))`` for x and the coefficients."""
    if not torch.is_grad_enabled():
        return _unrecorded(f, grad, x, order=order)
    if in_function_transform():
        return _by_reference(f, grad, x, order=order)
    slope = derivative(f, x, order=order + 1)
    da, db = _CoefficientGradients.apply(grad, x, f.numerator, f.denominator, f.form, order)
    return grad.to(x.dtype) * slope, da, db


def _unrecorded(f: Rational, grad: Tensor, x: Tensor, *, order: int) -> _Gradients:
    if order <= MAX_ORDER and is_eager(grad) and not in_function_transform():
        found = kernel_gradients(f, grad, x, order=order)
        if found is not None:
            return found
    return _by_reference(f, grad, x, order=order)


def kernel_gradients(f: Rational, grad: Tensor, x: Tensor, *, order: int) -> _Gradients | None:
    """Return the kernel's gradients of ``sum(grad * F^(order)(x))``; None if powers overflow."""
    dx = torch.empty_like(x)
    computed = cpu.dense(f, x)
    da, db = torch.zeros_like(computed.numerator), torch.zeros_like(computed.denominator)
    if x.numel():
        x, grad = cpu.laid_out_like(dx, x), cpu.laid_out_like(dx, grad)
        library = loaded_library()
        call = library.arguments(computed, x, grad=grad, dx=dx, da=da, db=db, order=order)
        if not in_range(library.call(call)):
            return None
    return dx, da.to(f.numerator.dtype), db.to(f.denominator.dtype)


def _by_reference(f: Rational, grad: Tensor, x: Tensor, *, order: int) -> _Gradients:
    """Compute :func:`_gradients` by plain operations, which anything can differentiate again."""
    if order == 0:
        dx, da, db, _ = plain.backward(f, grad, x)
        return dx, da, db
    function = _of_reference(f.form, order)
    y, pull_back = torch.func.vjp(function, x, f.numerator, f.denominator)[:2]
    dx, da, db = pull_back(grad.to(y.dtype))
    return dx, da, db


def _of_reference(form: str, order: int) -> Callable[..., Tensor]:
    """F^(order), order >= 1, by the reference, as a function of x, numerator and denominator."""

    def function(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        f = Rational(numerator, denominator, form)
        return plain.backward(f, torch.ones_like(x), x)[0]

    for _ in range(order - 1):
        function = _derived(function)
    return function


def _derived(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the derivative for x of a function that is elementwise in x."""
    return torch.func.grad(lambda x, *coefficients: function(x, *coefficients).sum())
