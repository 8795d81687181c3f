"""W F(x) + bias as one step of autograd, which keeps x alone for the backward pass.

The plain pair keeps x for the rational and F(x) for the linear map. Here F(x) is computed again in
the backward pass, by the pass over x that computes the rational's gradient anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from kat.nn.rational import GroupRational
from kat.ops import gradients, in_function_transform, leaves_pytorch, rational

GRKANHook = Callable[[GroupRational, nn.Linear, Tensor, Tensor], None]

_hooks: dict[int, GRKANHook] = OrderedDict()


def register_grkan_hook(hook: GRKANHook) -> RemovableHandle:
    """Calls ``hook(activation, linear, x, y)`` for every GR-KAN layer y = W F(x) + bias that runs.

    Like ``torch.nn.modules.module.register_module_forward_hook`` it is for all models of the
    process. It shows x and y of a fused layer, which stays fused; a hook on the layer's own
    modules has them called one after the other instead.

    Args:
        hook: sees the tensors as they are, part of autograd's graph; it must not change them.

    Returns:
        A handle; its ``remove()`` ends the calls.
    """
    handle = RemovableHandle(_hooks)
    _hooks[handle.id] = hook
    return handle


def _unchanged(y: Tensor) -> Tensor:
    return y


def grkan_linear(
    x: Tensor,
    activation: GroupRational,
    linear: nn.Linear,
    between: Callable[[Tensor], Tensor] = _unchanged,
    *,
    fused: bool = True,
) -> Tensor:
    """``linear(between(activation(x)))``, to rounding, in less memory where it is fused.

    Modules that are more than their formula (with hooks, or of a derived class) are called as they
    are; so is everything where no gradient is recorded, in ``torch.func`` transforms, in exported
    programs, and where a backend was asked for by name.

    Args:
        x: (..., d_in).
        activation, linear: the two modules.
        between: what is done to F(x) before the linear map.
        fused: whether they may be fused; never where ``between`` is more than the identity.
    """
    recorded = torch.is_grad_enabled() and not in_function_transform() and not leaves_pytorch()
    if fused and recorded and _is_plain(activation, linear):
        y = _apply(x, activation, linear)
    else:
        y = linear(between(activation(x)))
    for hook in tuple(_hooks.values()):
        hook(activation, linear, x, y)
    return y


def _apply(x: Tensor, activation: GroupRational, linear: nn.Linear) -> Tensor:
    return _GRKANLinear.apply(
        x,
        activation.weight_numerator,
        activation.weight_denominator,
        linear.weight,
        linear.bias,
        activation.form,
    )


def _is_plain(activation: nn.Module, linear: nn.Module) -> bool:
    return (
        type(activation) is GroupRational
        and type(linear) is nn.Linear
        and activation.impl is None
        and activation.channel_dim == -1
        and not any(_has_hooks(module) for module in (activation, linear))
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _GRKANLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: str,
    ) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator, weight)
        ctx.form = form
        ctx.bias_dtype = None if bias is None else bias.dtype
        return functional.linear(rational(x, numerator, denominator, form=form), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With G the gradient: dF = G W, dW = G^T F(x), dbias = sum G, and the rational's own.

        The products are in G's dtype, which autocast chose in the forward pass.
        """
        x, numerator, denominator, weight = ctx.saved_tensors
        grad_y = grad @ weight.to(grad.dtype)
        dx, da, db, y = _rational_gradients(grad_y, x, numerator, denominator, ctx.form)
        rows = grad.reshape(-1, grad.shape[-1])
        d_weight = rows.T @ y.reshape(-1, y.shape[-1]).to(grad.dtype)
        d_bias = None if ctx.bias_dtype is None else rows.sum(0).to(ctx.bias_dtype)
        return dx, da, db, d_weight.to(weight.dtype), d_bias, None


def _rational_gradients(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, da, db and F(x): in one pass, or, where they are differentiated or mapped, in two."""
    if not torch.is_grad_enabled() and not in_function_transform():
        return torch.ops.kat.rational_backward_recompute(grad, x, numerator, denominator, form)
    dx, da, db = gradients(grad, x, numerator, denominator, form)
    return dx, da, db, rational(x, numerator, denominator, form=form)
