"""The operator ``kat::rational`` and its gradient, registered with ``torch.library``.

The operators are the boundary between callers and backends: a backend adds a kernel for its device
type to each, and nothing above changes. Where a device has no kernel of its own, or its kernel does
not take the arguments, the plain reference runs. In either case only the inputs are kept for the
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kat.ops import reference
from kat.ops.cpu import kernel as cpu
from kat.ops.torch_internals import in_function_transform, refuse_forward_mode
from kat.ops.triton import backend as gpu

torch.library.define(
    "kat::rational",
    "(Tensor x, Tensor numerator, Tensor denominator, str form) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "kat::rational_backward",
    "(Tensor grad, Tensor x, Tensor numerator, Tensor denominator, str form)"
    " -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "kat::rational_backward_recompute",
    "(Tensor grad, Tensor x, Tensor numerator, Tensor denominator, str form)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    refuse_forward_mode()
    y = reference.rational_forward(x, numerator, denominator, form)
    return torch.empty_like(x).copy_(y)


def _rational_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    refuse_forward_mode()
    dx, da, db = reference.rational_backward(grad, x, numerator, denominator, form)
    return torch.empty_like(x).copy_(dx), da.contiguous(), db.contiguous()


def _rational_backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients and F(x), for a caller that did not keep F(x) from the forward pass."""
    gradients = _rational_backward(grad, x, numerator, denominator, form)
    return *gradients, _rational(x, numerator, denominator, form)


def _rational_fake(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    return torch.empty_like(x)


def _rational_backward_fake(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(x),
        torch.empty_like(numerator, memory_format=contiguous),
        torch.empty_like(denominator, memory_format=contiguous),
    )


def _rational_backward_recompute_fake(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = _rational_backward_fake(grad, x, numerator, denominator, form)
    return *gradients, torch.empty_like(x)


def serve(backend: ModuleType, kernel: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's kernel for the arguments that it serves, the reference for all others."""

    def implementation(*arguments: Any) -> Any:
        refuse_forward_mode()
        x, numerator, denominator = arguments[-4:-1]
        if backend.serves(x, numerator, denominator):
            return getattr(backend, kernel)(*arguments)
        return fallback(*arguments)

    return implementation


BACKENDS = {"cpu": cpu, "cuda": gpu}
IMPLEMENTATIONS: dict[str, dict[str, Callable[..., Any]]] = {device: {} for device in BACKENDS}
"""By device type and operator: the function that runs below autograd."""

for _name, _kernel, _reference, _fake in (
    ("rational", "forward", _rational, _rational_fake),
    ("rational_backward", "backward", _rational_backward, _rational_backward_fake),
    (
        "rational_backward_recompute",
        "backward_and_value",
        _rational_backward_recompute,
        _rational_backward_recompute_fake,
    ),
):
    torch.library.impl(f"kat::{_name}", "CompositeExplicitAutograd", _reference)
    for _device, _backend in BACKENDS.items():
        IMPLEMENTATIONS[_device][_name] = serve(_backend, _kernel, _reference)
        torch.library.impl(f"kat::{_name}", _device.upper(), IMPLEMENTATIONS[_device][_name])
    torch.library.register_fake(f"kat::{_name}", _fake)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.form = inputs
    ctx.save_for_backward(*tensors)


def gradients(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator, differentiable again.

    A backward pass can itself be mapped or differentiated in forward mode
    (``is_grads_batched=True``, Hessian-vector products), even where the forward pass was not.
    """
    if in_function_transform():
        return reference.rational_backward(grad, x, numerator, denominator, form)
    return torch.ops.kat.rational_backward.default(grad, x, numerator, denominator, form)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, numerator, denominator = ctx.saved_tensors
    return *gradients(grad, x, numerator, denominator, ctx.form), None


def _double_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiates the closed form of the reference's gradient, itself differentiable again."""

    def first_order(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return reference.rational_backward(grad, x, a, b, ctx.form)

    pullback = torch.func.vjp(first_order, *ctx.saved_tensors)[1]
    return *pullback(grads), None


torch.library.register_autograd("kat::rational", _backward, setup_context=_save_inputs)
torch.library.register_autograd(
    "kat::rational_backward", _double_backward, setup_context=_save_inputs
)
