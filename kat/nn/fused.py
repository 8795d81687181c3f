"""W F(x) + bias as one autograd function, which saves x alone for the backward pass.

The two modules by themselves save x for the rational and F(x) for the linear map. Here the backward
pass recomputes F(x) in the same pass over x as the gradient of the rational.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from kat.nn.blocks import can_run_in_blocks, run_in_blocks
from kat.nn.plain import PLAIN, is_plain
from kat.nn.rational import GroupRational
from kat.ops import Form, rational
from kat.ops.dispatch import rational_backward, rational_backward_recompute
from kat.ops.torch_internals import in_function_transform, is_exporting

GRKANHook = Callable[[GroupRational, nn.Linear, Tensor, Tensor], None]

_hooks: OrderedDict[int, GRKANHook] = OrderedDict()


def register_grkan_hook(hook: GRKANHook) -> RemovableHandle:
    """Calls ``hook(activation, linear, x, y)`` whenever a GR-KAN layer y = W F(x) + bias runs.

    Like ``torch.nn.modules.module.register_module_forward_hook``, it covers all models of the
    process. A fused layer stays fused; a hook on one of its own modules would prevent that.

    Args:
        hook: receives the tensors as part of the autograd graph, and must not change them.

    Returns:
        A handle; its ``remove()`` ends the calls.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.nn import register_grkan_hook
        >>> seen = []
        >>> handle = register_grkan_hook(lambda act, linear, x, y: seen.append(tuple(x.shape)))
        >>> y = kat.GRKANMlp(16, 64)(torch.randn(8, 16))
        >>> seen
        [(8, 16), (8, 64)]
        >>> handle.remove()
    """
    handle = RemovableHandle(_hooks)
    _hooks[handle.id] = hook
    return handle


def has_grkan_hooks() -> bool:
    """Whether any hook is registered by :func:`register_grkan_hook`."""
    return bool(_hooks)


def grkan_linear(
    x: Tensor,
    activation: GroupRational,
    linear: nn.Linear,
    between: Callable[[Tensor], Tensor] = lambda y: y,
    *,
    fused: bool = True,
) -> Tensor:
    """``linear(between(activation(x)))`` up to rounding, in less memory where it is fused.

    Where no gradient is recorded, it runs in blocks on the CPU, see :mod:`kat.nn.blocks`. The
    modules are called one after the other where they are not just their formula (they have hooks,
    a derived class, a ``forward`` of their own, or parameters of a tensor subclass), where ``x`` is
    not a plain tensor (an ``fx`` proxy, say), inside ``torch.func`` transforms, in exported
    programs, and where a backend was requested by name.

    Args:
        x: (..., d_in).
        activation, linear: the two modules.
        between: applied to F(x) before the linear map.
        fused: whether the modules may be fused; False if ``between`` is not the identity.

    Returns:
        y, (..., d_out).
    """
    records = torch.is_grad_enabled() and not in_function_transform() and not is_exporting()
    if fused and records and type(x) in PLAIN and is_plain(activation, linear):
        y = _GRKANLinear.apply(
            x,
            activation.weight_numerator,
            activation.weight_denominator,
            linear.weight,
            linear.bias,
            activation.form,
        )
    elif fused and can_run_in_blocks(x, [(activation, linear)]):
        y = run_in_blocks(x, [(activation, linear)])
    else:
        y = linear(between(activation(x)))
    for hook in tuple(_hooks.values()):
        hook(activation, linear, x, y)
    return y


class _GRKANLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        form: Form,
    ) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator, weight)
        ctx.form = form
        ctx.bias_dtype = None if bias is None else bias.dtype
        return functional.linear(rational(x, numerator, denominator, form=form), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With the output gradient G: dF = G W, dW = G^T F(x), dbias = sum G, and those of F.

        What no gradient needs is not computed: frozen weights cost no F(x) and no product. The
        products are in G's dtype, which autocast chose in the forward pass.
        """
        x, numerator, denominator, weight = ctx.saved_tensors
        *of_rational, for_weight, for_bias = ctx.needs_input_grad[:5]
        inputs = (x, numerator, denominator, ctx.form)
        dx = da = db = y = None
        if any(of_rational):
            grad_y = grad @ weight.to(grad.dtype)
            if for_weight:
                dx, da, db, y = rational_backward_recompute(grad_y, *inputs)
            else:
                dx, da, db = rational_backward(grad_y, *inputs)
        elif for_weight:
            y = rational(x, numerator, denominator, form=ctx.form)
        rows = grad.reshape(-1, grad.shape[-1])
        d_weight = d_bias = None
        if y is not None:
            d_weight = (rows.T @ y.reshape(-1, y.shape[-1]).to(grad.dtype)).to(weight.dtype)
        if for_bias:
            d_bias = rows.sum(0).to(ctx.bias_dtype)
        return dx, da, db, d_weight, d_bias, None
