"""Hooks on all GR-KAN layers of the process, which see a layer's input and output."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kat.nn.rational import GroupRational

GRKANHook = Callable[[GroupRational, nn.Linear, Tensor, Tensor], None]

_hooks: OrderedDict[int, GRKANHook] = OrderedDict()


def register_grkan_hook(hook: GRKANHook) -> RemovableHandle:
    """Call ``hook(activation, linear, x, y)`` whenever a GR-KAN layer y = W F(x) + bias runs.

    Of a gated MLP, x is the gate: y = W (F(x) v) + bias.

    Like ``torch.nn.modules.module.register_module_forward_hook``, it covers all models of the
    process. A layer runs with it as without it; a hook on one of its own modules would keep the
    layer from running in blocks.

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
    """Return True if any hook is registered by :func:`register_grkan_hook`."""
    return len(_hooks) > 0  # compiled code guards the length, not the truth value


def call_grkan_hooks(activation: Any, linear: Any, x: Tensor, y: Tensor) -> None:
    """Show the input and output of a layer that has a rational to all hooks."""
    for hook in tuple(_hooks.values()):
        if not isinstance(activation, nn.Identity):
            hook(activation, linear, x, y)
