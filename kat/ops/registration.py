"""The operator ``kat::rational`` and its gradient, registered with ``torch.library``.

The two operators are the boundary between callers and backends: a backend adds a kernel for its
device type to both, and nothing above changes. Where a device has no kernel of its own, the plain
reference runs. In either case only the inputs are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kat.ops import gpu, reference

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


def _rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    y = reference.rational_forward(x, numerator, denominator, form)
    return torch.empty_like(x).copy_(y)


def _rational_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    dx, da, db = reference.rational_backward(grad, x, numerator, denominator, form)
    return torch.empty_like(x).copy_(dx), da.contiguous(), db.contiguous()


def _rational_gpu(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    kernels = gpu.kernels()
    function = kernels.rational_forward if kernels else _rational
    return function(x, numerator, denominator, form)


def _rational_backward_gpu(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = gpu.kernels()
    function = kernels.rational_backward if kernels else _rational_backward
    return function(grad, x, numerator, denominator, form)


# Not as decorators: those put None in the function's place, and these are called above.
torch.library.impl("kat::rational", "CompositeExplicitAutograd", _rational)
torch.library.impl("kat::rational_backward", "CompositeExplicitAutograd", _rational_backward)
torch.library.impl("kat::rational", "CUDA", _rational_gpu)
torch.library.impl("kat::rational_backward", "CUDA", _rational_backward_gpu)


@torch.library.register_fake("kat::rational")
def _rational_fake(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("kat::rational_backward")
def _rational_backward_fake(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(x),
        torch.empty_like(numerator, memory_format=contiguous),
        torch.empty_like(denominator, memory_format=contiguous),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.form = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.kat.rational_backward(grad, *ctx.saved_tensors, ctx.form), None


def _double_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Differentiates the closed form of the reference's gradient, itself differentiable again."""

    def first_order(*tensors: Tensor) -> tuple[Tensor, ...]:
        return reference.rational_backward(*tensors, ctx.form)

    _, pullback = torch.func.vjp(first_order, *ctx.saved_tensors)
    return *pullback(grads), None


torch.library.register_autograd("kat::rational", _backward, setup_context=_save_inputs)
torch.library.register_autograd(
    "kat::rational_backward", _double_backward, setup_context=_save_inputs
)
