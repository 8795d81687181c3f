"""What is at work around a call: a compiler, a tracer, a mode, a transform of ``torch.func``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._C._functorch import TransformType

_PLAIN = (Tensor, nn.Parameter)


def is_plain_eager(*tensors: Tensor) -> bool:
    """Whether these are plain tensors, and nothing compiles, traces or rewrites operations."""
    return (
        all(type(tensor) in _PLAIN for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._get_tracing_state() is None
    )


def in_vmap() -> bool:
    """Whether tensors may stand for batches of tensors, whose values cannot be asked for."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == TransformType.Vmap for level in levels)


def in_function_transform() -> bool:
    """Whether a ``torch.func`` transform or forward-mode AD is at work.

    An operator with a backward formula alone gives silent zeros as its tangent there.
    """
    if torch.compiler.is_compiling():
        return False
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return forward_mode or torch._C._functorch.maybe_current_level() is not None
