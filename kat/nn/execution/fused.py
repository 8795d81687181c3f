"""W F(x) + bias as one autograd function, which saves x alone for the backward pass.

The two modules by themselves save x for the rational and F(x) for the linear map. Here the backward
pass recomputes F(x) in the same pass over x as the gradient of the rational.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kat.nn.execution.blocks import layers_for_blocks, run_in_blocks
from kat.nn.execution.layer import PLAIN, Layer, plain_layer
from kat.nn.rational import GroupRational
from kat.ops.torch_internals import in_function_transform, is_exporting

GRKANHook = Callable[[GroupRational, nn.Linear, Tensor, Tensor], None]

_hooks: OrderedDict[int, GRKANHook] = OrderedDict()


def register_grkan_hook(hook: GRKANHook) -> RemovableHandle:
    """Calls ``hook(activation, linear, x, y)`` whenever a GR-KAN layer y = W F(x) + bias runs.

    Of a gated MLP, x is the gate: y = W (F(x) v) + bias.

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
    return len(_hooks) > 0  # compiled code guards the length, and not whether there are any


def call_grkan_hooks(activation: GroupRational, linear: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Shows a layer's input and output to all hooks of :func:`register_grkan_hook`."""
    for hook in tuple(_hooks.values()):
        hook(activation, linear, x, y)


def grkan_linear(
    x: Tensor,
    activation: GroupRational,
    linear: nn.Linear,
    between: Sequence[nn.Module] = (),
    *,
    fused: bool = True,
) -> Tensor:
    """W F(x) + bias, ``linear(activation(x))`` up to rounding, in less memory where it is fused.

    On the CPU it runs in blocks of rows, see :mod:`kat.nn.execution.blocks`. The modules are called
    one after the other where they are not just their formula (they have hooks, a derived class, a
    ``forward`` of their own, or parameters of a tensor subclass), where ``x`` is not a plain tensor
    (an ``fx`` proxy, say), inside ``torch.func`` transforms, in exported programs, and where a
    backend was requested by name; and, but for the CPU, where no gradient is recorded.

    Args:
        x: (..., d_in).
        activation, linear: the two modules.
        between: applied to F(x) before the linear map, one after the other; they prevent fusing.
        fused: whether the modules may be fused.

    Returns:
        y, (..., d_out).
    """
    y = _fused(x, activation, linear) if fused and not between else None
    if y is None:
        y = activation(x)
        for module in between:
            y = module(y)
        y = linear(y)
    call_grkan_hooks(activation, linear, x, y)
    return y


def _fused(x: Tensor, activation: GroupRational, linear: nn.Linear) -> Tensor | None:
    """The output in blocks or by one function; None where the modules must be called."""
    layers = layers_for_blocks(x, [(activation, linear)])
    if layers is not None:
        return run_in_blocks(x, layers)
    if type(x) not in PLAIN or not torch.is_grad_enabled() or x.dim() == 0:
        return None
    if in_function_transform() or is_exporting():
        return None
    layer = plain_layer(activation, linear)
    y: Tensor | None = None if layer is None else _GRKANLinear.apply(x, *layer)
    return y


class _GRKANLinear(torch.autograd.Function):
    """Applied to x and the fields of a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *fields: Any) -> Tensor:
        layer = Layer(*fields)
        ctx.save_for_backward(x, *layer._replace(bias=None).tensors)
        ctx.form = layer.form
        y = layer.output(x.reshape(-1, x.shape[-1]))
        # autograd would refuse to let a view be changed in place
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        needs_x, _, *needs_tensors = ctx.needs_input_grad
        layer = Layer._make((ctx.form, *tensors))
        dx, *gradients = layer.gradients(grad, x, [needs_x, *needs_tensors])
        return dx, None, *gradients
