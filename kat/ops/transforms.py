"""Function transforms, for which the operators have no rule: the plain reference serves there."""

from __future__ import annotations

import torch


@torch.compiler.assume_constant_result
def in_function_transform() -> bool:
    """Whether a ``torch.func`` transform or forward-mode AD is at work.

    The compiler enters the transforms of the code that it traces, and compiles that code anew where
    it is called under another ``torch.func`` transform, so that the answer is right there too.
    """
    return in_forward_mode() or torch._C._functorch.maybe_current_level() is not None


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
