"""The short way to a kernel, for plain tensors where nothing watches or rewrites the operators.

An operator that is registered from Python costs tens of microseconds a training step in dispatch
alone, as much as the kernel itself takes on a small layer. The arithmetic is the operators' own:
the same backends, and the same formula where a gradient is differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kat.ops.dispatch import IMPLEMENTATIONS, gradients
from kat.ops.torch_internals import in_function_transform, is_plain_eager


def takes(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Whether these are plain tensors of a device with a kernel, and nothing, not even a profiler,
    is at work that would want to see the operator.
    """
    return (
        x.device.type in IMPLEMENTATIONS
        and is_plain_eager(x, numerator, denominator)
        and not torch.autograd._profiler_enabled()
    )


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), differentiable, for arguments that this module :func:`takes`."""
    if torch.is_grad_enabled():
        return _Rational.apply(x, numerator, denominator, form)
    return IMPLEMENTATIONS[x.device.type]["rational"](x, numerator, denominator, form)


class _Rational(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator)
        ctx.form = form
        forward: Callable[..., Tensor] = IMPLEMENTATIONS[x.device.type]["rational"]
        return forward(x, numerator, denominator, form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, numerator, denominator = ctx.saved_tensors  # once: checkpointing lets them be read once
        backward: Callable[..., tuple[Tensor, ...]] = gradients
        plain = not torch.is_grad_enabled() and not in_function_transform()
        if plain and takes(grad, numerator, denominator):
            backward = IMPLEMENTATIONS[x.device.type]["rational_backward"]
        return *backward(grad, x, numerator, denominator, ctx.form), None
