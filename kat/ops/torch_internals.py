"""What is at work around a call: a compiler, a tracer, a mode, a transform of ``torch.func``.

The operators have no rules for function transforms; the plain reference serves there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._C._functorch import TransformType

_PLAIN = (Tensor, nn.Parameter)


def is_plain_eager(*tensors: Tensor) -> bool:
    """Whether these are plain tensors, and nothing compiles, traces or rewrites operations.

    Batches of gradients (``is_grads_batched=True``) come as tensors that have no storage, some
    zeros without any too, and views that are negated lazily with the wrong numbers in it: what the
    dispatcher puts right on the way to a kernel.
    """
    return (
        all(type(tensor) in _PLAIN for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not any(tensor.is_neg() or torch._is_zerotensor(tensor) for tensor in tensors)
        and not any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._get_tracing_state() is None
    )


def in_vmap() -> bool:
    """Whether tensors may stand for batches of tensors, whose values cannot be asked for."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == TransformType.Vmap for level in levels)


@torch.compiler.assume_constant_result
def in_function_transform() -> bool:
    """Whether a ``torch.func`` transform or forward-mode AD is at work.

    The compiler enters the transforms of the code that it traces, and compiles that code anew where
    it is called under another ``torch.func`` transform, so that the answer is right there too.
    """
    return in_forward_mode() or torch._C._functorch.maybe_current_level() is not None


def leaves_pytorch() -> bool:
    """Whether a program is recorded for use elsewhere, by ``torch.export`` or ``torch.jit.trace``.

    Of an ``autograd.Function`` a strict export keeps the forward pass alone, without a word.
    """
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def in_forward_mode() -> bool:
    """Whether forward-mode AD is at work, on its own or under ``torch.func``."""
    return torch.autograd.forward_ad._current_level >= 0


def refuse_forward_mode() -> None:
    """Raises where forward-mode AD is at work.

    An operator with a backward formula alone would give silent zeros as its tangent. What leads
    here is a call of the operator itself, or code that was compiled before forward mode began.

    Raises:
        RuntimeError: forward-mode AD is at work.
    """
    if in_forward_mode():
        raise RuntimeError(
            "the operator kat::rational has no forward-mode derivative; call"
            " kat.rational(..., impl='reference'), which has derivatives of every kind"
        )
