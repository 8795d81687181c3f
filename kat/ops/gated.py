"""The gate F(x) v: the public call, its operators, and the short eager path to the same kernels.

With go the gradient of y = F(x) v:

    dx = go v F'(x),   dv = go F(x),   da and db those of F for its gradient go v

One pass over memory computes all four, and the backward pass finds x and v alone. Everything else
is as for :func:`kat.rational`, see :mod:`kat.ops.operators`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kat.ops import derivative, gated_reference
from kat.ops.arguments import Form, Impl, check_arguments
from kat.ops.cpu import gated as cpu
from kat.ops.dispatch import rational
from kat.ops.gated_reference import Gradients
from kat.ops.operators import (
    Pass,
    define_gradients,
    define_passes,
    define_second_order,
    recorded_call,
    requested_backend,
    run_backward,
    run_operator,
    run_unrecorded,
    takes_short_path,
)
from kat.ops.torch_internals import in_function_transform, is_exporting_onnx
from kat.ops.triton import gated as triton
from kat.ops.triton.backend import Interpreted

BACKENDS: dict[str, Any] = {"cpu": cpu, "triton": triton}
"""By the name that ``impl=`` takes."""


def gated_rational(
    x: Tensor,
    v: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    *,
    form: Form = "A",
    impl: Impl | None = None,
) -> Tensor:
    """F(x) v, elementwise: the gate of a gated MLP, with F as in :func:`kat.rational`.

    x and v may be the two halves of one tensor, ``h.chunk(2, dim=-1)``: they are not copied. The
    backward pass keeps x and v alone.

    Args:
        x: (..., C), what the activation F of the gate sees.
        v: of x's shape and dtype.
        numerator, denominator, form, impl: as in :func:`kat.rational`.

    Returns:
        y, with x's shape and dtype. Differentiable with respect to all four tensors.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`kat.rational`, and v not like x.

    Examples:
        >>> import torch
        >>> import kat
        >>> x, v = torch.randn(4, 32).chunk(2, dim=-1)
        >>> square = torch.tensor([[0.0, 0.0, 1.0]])
        >>> y = kat.gated_rational(x, v, square, torch.zeros(8, 2))
        >>> torch.allclose(y, x**2 * v)
        True
    """
    inputs = (x, v, numerator, denominator)
    if (call := recorded_call(gated_rational, inputs, {"form": form, "impl": impl})) is not None:
        return call
    check_arguments(x, numerator, denominator, form)
    _check_like(v, x)
    if is_exporting_onnx():
        return gated_reference.plain_gated_rational(x, v, numerator, denominator, form)
    if impl is None:
        return dispatched(x, v, numerator, denominator, form)
    if impl == "reference":
        return gated_reference.gated_rational(x, v, numerator, denominator, form)
    backend = requested_backend(impl, BACKENDS)
    backend.check_available(x, numerator, denominator)
    if x.device.type != backend.DEVICE_TYPE:  # Triton's interpreter runs on CPU tensors
        passes = (partial(_forward_by, triton), partial(_backward_by, triton))
        y: Tensor = Interpreted.apply(*passes, *inputs, form)
        return y
    return torch.ops.kat.gated_rational.default(x, v, numerator, denominator, form)


def _check_like(v: Tensor, x: Tensor) -> None:
    if v.shape != x.shape:
        raise ValueError(f"v must have x's shape {tuple(x.shape)}, got {tuple(v.shape)}")
    if v.dtype != x.dtype:
        raise TypeError(f"v must have x's dtype {x.dtype}, got {v.dtype}")
    if v.layout != x.layout or v.device != x.device:
        raise ValueError(f"v must be dense and on {x.device}, got {v.layout} on {v.device}")


def dispatched(x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x) v, differentiable, by the kernel of x's device or the reference; no checks."""
    tensors = (x, v, numerator, denominator)
    y: Tensor = run_operator("gated_rational", gated_reference.gated_rational, tensors, (form,))
    return y


def gated_rational_backward(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    """The gradients of ``sum(grad * F(x) * v)`` for the four tensors, differentiable again."""
    if torch.is_grad_enabled() and derivative.has_kernel(grad, x, numerator, denominator):
        dx, da, db = derivative.gradients(grad * v, x, numerator, denominator, form)
        return dx, grad * rational(x, numerator, denominator, form), da, db
    tensors = (grad, x, v, numerator, denominator)
    dx, dv, da, db = run_backward(
        "gated_rational_backward", gated_reference.backward, tensors, (form,)
    )
    return dx, dv, da, db


def gated_rational_backward_recompute(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`gated_rational_backward`, and F(x) v, for a backward pass that needs it."""
    tensors = (x, v, numerator, denominator)
    if not torch.is_grad_enabled() and not in_function_transform():
        name = "gated_rational_backward_recompute"
        dx, dv, da, db, y = run_unrecorded(name, (grad, *tensors), (form,))
        return dx, dv, da, db, y
    return *gated_rational_backward(grad, *tensors, form), dispatched(*tensors, form)


def packed_backward_recompute(
    grad: Tensor, h: Tensor, gate_last: bool, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for h, of which x and v are the halves, and the coefficients; and F(x) v.

    A kernel writes the gradients of x and v into one tensor: to join them later takes two thirds of
    its time again.

    Args:
        grad: of y.
        h: (..., 2 C): x and v, or v and x if ``gate_last``.
        gate_last, numerator, denominator, form: of the gate.
    """
    x, v = halves(h, gate_last)
    if torch.is_grad_enabled() or not takes_short_path(h, numerator, denominator, grad):
        return _joined(grad, x, v, gate_last, numerator, denominator, form)
    backend = next(b for b in BACKENDS.values() if h.device.type == b.DEVICE_TYPE)
    if in_function_transform() or not backend.supports(h, numerator, denominator):
        return _joined(grad, x, v, gate_last, numerator, denominator, form)
    dh, y = h.new_empty(h.shape), x.new_empty(x.shape)
    outputs = (*halves(dh, gate_last), y)
    da, db = _gradients_by(backend, *outputs, grad, x, v, numerator, denominator, form)
    return dh, da, db, y


def _joined(
    grad: Tensor,
    x: Tensor,
    v: Tensor,
    gate_last: bool,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (x, v, numerator, denominator, form)
    dx, dv, da, db, y = gated_rational_backward_recompute(grad, *inputs)
    return torch.cat((dv, dx) if gate_last else (dx, dv), dim=-1), da, db, y


def halves(h: Tensor, gate_last: bool) -> tuple[Tensor, Tensor]:
    """x and v, views of h (..., 2 C): x is the first half, or the second one if ``gate_last``."""
    first, second = h.chunk(2, dim=-1)
    return (second, first) if gate_last else (first, second)


def _forward(*inputs: Any) -> Tensor:
    return gated_reference.forward(*inputs).contiguous()


def _backward(*inputs: Any) -> Gradients:
    dx, dv, da, db = (gradient.contiguous() for gradient in gated_reference.backward(*inputs))
    return dx, dv, da, db


def _backward_recompute(
    grad: Tensor, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return *_backward(grad, *inputs), _forward(*inputs)


def _fake_forward(
    x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Tensor:
    return x.new_empty(x.shape)


def _fake_backward(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    dx, dv, da, db = (t.new_empty(t.shape) for t in (x, x, numerator, denominator))
    return dx, dv, da, db


def _fake_backward_recompute(
    grad: Tensor, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return *_fake_backward(grad, x, v, numerator, denominator, form), x.new_empty(x.shape)


def _rows(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, channels) of both, with contiguous channels and rows of one stride.

    The halves of one tensor are such rows; tensors of another layout are copied.
    """
    shape = (x.shape[:-1].numel(), x.shape[-1])
    x, v = x.reshape(shape), v.reshape(shape)
    if x.stride() == v.stride() and x.stride(1) == 1 and x.dtype == v.dtype:
        return x, v
    return x.contiguous(), v.to(x.dtype).contiguous()


def _forward_by(
    backend: Any, x: Tensor, v: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Tensor:
    y = x.new_empty(x.shape)
    if x.numel():
        backend.forward_into(y, *_rows(x, v), numerator, denominator, form)
    return y


def _gradients_by(
    backend: Any,
    d_x: Tensor,
    d_v: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    v: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
) -> tuple[Tensor, Tensor]:
    """Fills d_x, d_v, and y if given; returns the gradients of numerator and denominator.

    d_x and d_v are contiguous, or the halves of one contiguous tensor.
    """
    if not x.numel():
        return torch.zeros_like(numerator), torch.zeros_like(denominator)
    x, v = _rows(x, v)
    outputs = (d_x.view(x.shape), d_v.view(x.shape), y, grad.to(x.dtype).contiguous())
    da, db = backend.backward_into(*outputs, x, v, numerator, denominator, form)
    return da.to(numerator.dtype), db.to(denominator.dtype)


def _backward_by(backend: Any, grad: Tensor, x: Tensor, *inputs: Any) -> Gradients:
    d_x, d_v = x.new_empty(x.shape), x.new_empty(x.shape)
    da, db = _gradients_by(backend, d_x, d_v, None, grad, x, *inputs)
    return d_x, d_v, da, db


def _backward_recompute_by(
    backend: Any, grad: Tensor, x: Tensor, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_x, d_v, y = (x.new_empty(x.shape) for _ in range(3))
    da, db = _gradients_by(backend, d_x, d_v, y, grad, x, *inputs)
    return d_x, d_v, da, db, y


_INPUTS = "Tensor x, Tensor v, Tensor numerator, Tensor denominator, str form"
define_passes(
    "gated_rational",
    _INPUTS,
    4,
    forward=Pass(lambda backend: partial(_forward_by, backend), _forward, _fake_forward),
    backward=Pass(lambda backend: partial(_backward_by, backend), _backward, _fake_backward),
    recompute=Pass(
        lambda backend: partial(_backward_recompute_by, backend),
        _backward_recompute,
        _fake_backward_recompute,
    ),
    backends=BACKENDS.values(),
)


def _first_order(ctx: Any, grad: Tensor) -> Gradients:
    return gated_rational_backward(grad, *ctx.saved_tensors, *ctx.options)


define_gradients("gated_rational", _first_order)
define_second_order("gated_rational_backward", gated_reference.backward)
