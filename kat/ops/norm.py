"""F(LayerNorm(x)): the public call, its operators, and the short eager path to the same kernels.

One pass over memory computes it, and one all its gradients. The backward pass finds x alone: it has
to read the row anyway, and computes mean and standard deviation again. Everything else is as for
:func:`kat.rational`, see :mod:`kat.ops.operators`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kat.ops import arguments, derivative, norm_reference
from kat.ops.arguments import Form, Impl, check_arguments
from kat.ops.cpu import norm as cpu
from kat.ops.norm_reference import Gradients
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
    short_path,
    takes_short_path,
)
from kat.ops.torch_internals import in_function_transform, is_exporting_onnx, is_profiling
from kat.ops.triton import norm as triton
from kat.ops.triton.backend import Interpreted

BACKENDS: dict[str, Any] = {"cpu": cpu, "triton": triton}
"""By the name that ``impl=`` takes."""
_OF_DEVICE = {backend.DEVICE_TYPE: backend for backend in BACKENDS.values()}


def layer_norm_rational(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    *,
    eps: float = 1e-5,
    form: Form = "A",
    impl: Impl | None = None,
) -> Tensor:
    """F(LayerNorm(x)): LayerNorm over the last dimension, then F as in :func:`kat.rational`.

        z = (x - mean) / sqrt(var + eps) * weight + bias,   y = F(z)

    Mean and variance are those of a row, as in ``torch.nn.LayerNorm``. z is not rounded to x's
    dtype, and the backward pass keeps x alone.

    Args:
        x: (..., C).
        weight, bias: (C,), of any floating dtype.
        numerator, denominator, form: as in :func:`kat.rational`.
        eps: added to the variance.
        impl: as in :func:`kat.rational`. Where None finds no kernel that holds a row, LayerNorm and
            the kernel of F run one after the other.

    Returns:
        y, with x's shape and dtype. Differentiable with respect to all five tensors.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`kat.rational`, and a weight or bias that does
            not fit.

    Examples:
        >>> import torch
        >>> import kat
        >>> x, norm, act = torch.randn(4, 32), torch.nn.LayerNorm(32), kat.GroupRational()
        >>> coefficients = act.weight_numerator, act.weight_denominator
        >>> y = kat.ops.layer_norm_rational(x, norm.weight, norm.bias, *coefficients)
        >>> torch.allclose(y, act(norm(x)), atol=1e-5)
        True
    """
    inputs = (x, weight, bias, numerator, denominator)
    if impl is None and takes_short_path(*inputs):
        _check(*inputs, form)
        y: Tensor = short_path("layer_norm_rational", *inputs, eps, form)
        return y
    named = {"eps": eps, "form": form, "impl": impl}
    if (call := recorded_call(layer_norm_rational, inputs, named)) is not None:
        return call
    _check(*inputs, form)
    if is_exporting_onnx():
        return norm_reference.plain_layer_norm_rational(*inputs, eps, form)
    if impl is None:
        return dispatched(*inputs, eps, form)
    if impl == "reference":
        return norm_reference.layer_norm_rational(*inputs, eps, form)
    backend = requested_backend(impl, BACKENDS)
    backend.check_available(x, numerator, denominator)
    if x.device.type != backend.DEVICE_TYPE:  # Triton's interpreter runs on CPU tensors
        passes = (partial(_forward_by, triton), partial(_backward_by, triton))
        interpreted: Tensor = Interpreted.apply(*passes, *inputs, eps, form)
        return interpreted
    return torch.ops.kat.layer_norm_rational.default(*inputs, eps, form)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> None:
    check_arguments(x, numerator, denominator, form)
    if not _fit(x, weight, bias):  # in a microsecond
        for name, tensor in (("weight", weight), ("bias", bias)):
            _check_fits(name, tensor, x)


def _fit(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether weight and bias are those of a LayerNorm of x's rows."""
    return (
        isinstance(weight, Tensor)
        and isinstance(bias, Tensor)
        and weight.shape == bias.shape == x.shape[-1:]
        and weight.is_floating_point()
        and bias.is_floating_point()
        and weight.layout == bias.layout == x.layout
        and weight.device == bias.device == x.device
    )


def _check_fits(name: str, tensor: Tensor, x: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(tensor).__name__}; LayerNorm without one has ones"
            " as its weight and zeros as its bias"
        )
    row = tuple(x.shape[-1:])
    if tensor.shape != row:
        raise ValueError(
            f"{name} must have the shape of a row of x, {row}, got {tuple(tensor.shape)}"
        )
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.layout != x.layout or tensor.device != x.device:
        raise ValueError(
            f"{name} must be dense and on {x.device}, got {tensor.layout} on {tensor.device}"
        )


def dispatched(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> Tensor:
    """F(LayerNorm(x)), differentiable, by the kernel of x's device or the reference; no checks."""
    on_reference = norm_reference.layer_norm_rational
    tensors = (x, weight, bias, numerator, denominator)
    y: Tensor = run_operator("layer_norm_rational", on_reference, tensors, (eps, form))
    return y


def has_kernel(
    x: Tensor, weight: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> bool:
    """Whether a kernel computes both in one pass for these arguments, and they fit together."""
    backend = _OF_DEVICE.get(x.device.type)
    if backend is None or not _fit(x, weight, bias):
        return False
    return arguments.fit(x, numerator, denominator, form) and backend.supports(
        x, numerator, denominator
    )


def eager(x: Tensor, *inputs: Any) -> Tensor:
    """F(LayerNorm(x)) for plain tensors that have a kernel, where nothing rewrites operations.

    Args:
        x: the input.
        *inputs: the other arguments of :func:`dispatched`.
    """
    y: Tensor
    if is_profiling():
        y = torch.ops.kat.layer_norm_rational.default(x, *inputs)
    else:
        y = short_path("layer_norm_rational", x, *inputs)
    return y


def layer_norm_rational_backward(grad: Tensor, *inputs: Any) -> Gradients:
    """The gradients of ``sum(grad * F(LayerNorm(x)))``, differentiable again.

    Args:
        grad: of the output.
        *inputs: as those of :func:`dispatched`.
    """
    x, *_, numerator, denominator, _, _ = inputs
    if torch.is_grad_enabled() and derivative.has_kernel(grad, x, numerator, denominator):
        return norm_reference.backward(grad, *inputs, of_rational=derivative.gradients)
    tensors, options = (grad, *inputs[:5]), inputs[5:]
    name, on_reference = "layer_norm_rational_backward", norm_reference.backward
    dx, d_weight, d_bias, da, db = run_backward(name, on_reference, tensors, options)
    return dx, d_weight, d_bias, da, db


def layer_norm_rational_backward_recompute(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    """As :func:`layer_norm_rational_backward`, and F(LayerNorm(x)), for a pass that needs it."""
    if not torch.is_grad_enabled() and not in_function_transform():
        name, tensors, options = "layer_norm_rational_backward_recompute", inputs[:5], inputs[5:]
        found: tuple[Tensor, ...] = run_unrecorded(name, (grad, *tensors), options)
        return found
    return *layer_norm_rational_backward(grad, *inputs), dispatched(*inputs)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> Tensor:
    """LayerNorm, then the operator of F, which has kernels of its own."""
    z = norm_reference.normalized(x, weight, bias, eps)
    return torch.ops.kat.rational(z, numerator, denominator, form).to(x.dtype).contiguous()


def _backward(grad: Tensor, *inputs: Any) -> Gradients:
    of_rational = torch.ops.kat.rational_backward
    found = norm_reference.backward(grad, *inputs, of_rational=of_rational)
    dx, d_weight, d_bias, da, db = (gradient.contiguous() for gradient in found)
    return dx, d_weight, d_bias, da, db


def _backward_recompute(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return *_backward(grad, *inputs), _forward(*inputs)


def _fake_forward(x: Tensor, *inputs: Any) -> Tensor:
    return x.new_empty(x.shape)


def _fake_backward(grad: Tensor, *inputs: Any) -> Gradients:
    dx, d_weight, d_bias, da, db = (t.new_empty(t.shape) for t in inputs[:5])
    return dx, d_weight, d_bias, da, db


def _fake_backward_recompute(grad: Tensor, x: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return *_fake_backward(grad, x, *inputs), x.new_empty(x.shape)


def _forward_by(backend: Any, x: Tensor, *inputs: Any) -> Tensor:
    y = x.new_empty(x.shape)
    if x.numel():
        backend.forward_into(y, x.contiguous(), *inputs)
    return y


def _gradients_by(
    backend: Any, y: Tensor | None, grad: Tensor, x: Tensor, *inputs: Any
) -> Gradients:
    """The gradients; y is filled if given."""
    dx, tensors = x.new_empty(x.shape), inputs[:4]
    if not x.numel():
        d_weight, d_bias, da, db = (t.new_zeros(t.shape) for t in tensors)
        return dx, d_weight, d_bias, da, db
    grad = grad.to(x.dtype).contiguous()
    found = backend.backward_into(dx, y, grad, x.contiguous(), *inputs)
    pairs = zip(found, tensors, strict=True)
    d_weight, d_bias, da, db = (gradient.to(tensor.dtype) for gradient, tensor in pairs)
    return dx, d_weight, d_bias, da, db


def _backward_by(backend: Any, grad: Tensor, *inputs: Any) -> Gradients:
    return _gradients_by(backend, None, grad, *inputs)


def _backward_recompute_by(
    backend: Any, grad: Tensor, x: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    y = x.new_empty(x.shape)
    return *_gradients_by(backend, y, grad, x, *inputs), y


_INPUTS = (
    "Tensor x, Tensor weight, Tensor bias, Tensor numerator, Tensor denominator, float eps,"
    " str form"
)
define_passes(
    "layer_norm_rational",
    _INPUTS,
    5,
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
    return layer_norm_rational_backward(grad, *ctx.saved_tensors, *ctx.options)


define_gradients("layer_norm_rational", _first_order)
define_second_order("layer_norm_rational_backward", norm_reference.backward)
